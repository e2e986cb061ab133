"""The fused execution: in Triton's interpreter, compiled for GPUs that are not here, and without Triton."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dynlib.kernels import acm, acm_forward, fuse
from dynlib.width import AdaptiveComputationModule, acmize
from dynlib.width.acm import gathered

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed here")


def run(*command: str, interpret: bool) -> str:
    """What a Python of its own prints."""
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpret))}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@needs_triton
def test_in_tritons_interpreter_the_kernels_are_the_gathered_execution() -> None:
    told = run("-m", "pytest", "-q", "-p", "no:xdist", "-o", "addopts=", "tests/kernels/interpreted.py", interpret=True)
    passed = re.search(r"(\d+) passed", told)
    assert passed is not None, told
    assert int(passed[1]) >= 25
    assert "skipped" not in told


COMPILED = """
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from dynlib.kernels import acm
sizes = {key.upper(): acm.BLOCKS[key] for key in ("rows", "columns", "inner")}
for kind, sums, architecture in ARCHITECTURES:
    constants = {**sizes, "SUM": sums, "PRECISION": "ieee", "WIDEN": False}
    for kernel in (acm.expand_kernel, acm.contract_kernel):
        signature = {}
        for name in kernel.arg_names:
            if name in ("order", "k"):
                signature[name] = "*i64"
            elif name in ("tokens", "dim", "neurons", "out", "each"):
                signature[name] = "i32"
            else:
                signature[name] = "constexpr" if name in constants else f"*{kind}"
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        made = compile(source, target=GPUTarget("cuda", architecture, 32))
        print(kind, architecture, kernel.__name__, "mma" in made.asm["ptx"], len(made.asm["cubin"]) > 0)
"""


@needs_triton
def test_they_compile_for_a_gpu_that_need_not_be_here() -> None:
    code = COMPILED.replace("ARCHITECTURES", "[('bf16', tl.float32, 90)]")
    expected = [f"bf16 90 {name}_kernel True True" for name in ("expand", "contract")]
    assert run("-c", code, interpret=False).splitlines() == expected


# Without Triton, or without a GPU


def example() -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    z, w, b, v = (torch.randn(*shape, generator=draw) for shape in ((9, 6), (8, 6), (8,), (8, 5)))
    return z, torch.randint(5, (9,), generator=draw), w, b, v


def test_without_triton_one_sentence_says_so_and_the_gathered_execution_runs(monkeypatch) -> None:
    monkeypatch.setattr(acm, "triton", None)
    with pytest.warns(UserWarning, match="Triton is not installed, so the gathered execution runs: pip") as told:
        out = acm_forward(*example(), each=2)
    assert len(told) == 1
    assert torch.equal(out, gathered(*example(), each=2))
    model = acmize(torch.nn.Sequential(torch.nn.Linear(8, 8)), linear=("0",)).eval()
    z = torch.randn(3, 8)
    before = model(z)
    with pytest.warns(UserWarning, match="Triton is not installed") as told:
        assert fuse(model) is model
    assert len(told) == 1
    assert model[0].execution == "gathered"
    assert torch.equal(model(z), before)


def test_without_a_gpu_one_sentence_says_so(monkeypatch) -> None:
    monkeypatch.setattr(acm, "triton", torch)  # anything that is there
    monkeypatch.setattr(acm, "interpreted", False)
    assert acm.why_not("cuda") is None
    with pytest.warns(UserWarning, match="run on a CUDA GPU and the tokens are on cpu.*TRITON_INTERPRET=1") as told:
        out = acm_forward(*example(), each=2)
    assert len(told) == 1
    assert torch.equal(out, gathered(*example(), each=2))


def test_the_package_is_there_without_triton() -> None:
    code = (
        "from importlib.machinery import PathFinder\nfind = PathFinder.find_spec\n"
        "PathFinder.find_spec = staticmethod(lambda name, *rest: None if name == 'triton' else find(name, *rest))\n"
        "import dynlib.kernels.acm as acm\nprint(acm.triton, acm.why_not('cuda'))"
    )
    assert run("-c", code, interpret=False).startswith("None Triton is not installed")


# Bad input


@pytest.mark.usefixtures("as_users_run_it")
def test_what_does_not_fit_is_an_error() -> None:
    z, k, w, b, v = example()
    with pytest.raises(TypeError, match=r"expand is torch\.float64 on cpu and the tokens are torch\.float32 on cpu"):
        acm_forward(z, k, w.double(), b, v, each=2)
    with pytest.raises(TypeError, match="tokens must be floating-point"):
        acm_forward(z.long(), k, w, b, v, each=2)
    with pytest.raises(TypeError, match="k must be int64 or int32"):
        acm_forward(z, k.float(), w, b, v, each=2)
    with pytest.raises(TypeError, match="z must be a tensor; got list"):
        acm_forward(z.tolist(), k, w, b, v, each=2)
    for wrong in ((z[:, :5], k, w, b, v), (z, k[:8], w, b, v), (z, k, w, b[:7], v), (z[None], k, w, b, v)):
        with pytest.raises(ValueError, match=r"the shapes must be z \[tokens, dim\], k \[tokens\]"):
            acm_forward(*wrong, each=2)
    for each, says in ((3, "hidden must be a multiple of each; got 8 neurons and each=3"), (9, "each must be 1 … 8")):
        with pytest.raises(ValueError, match=says):
            acm_forward(z, k, w, b, v, each=each)
    for outside in (k - 1, k + 4):
        with pytest.raises(ValueError, match="k must be 0 … 4; got"):
            acm_forward(z, outside, w, b, v, each=2)
    with pytest.raises(ValueError, match="precision must be 'ieee' or 'tf32'"):
        acm_forward(z, k, w, b, v, each=2, precision="bf16")
    with pytest.raises(ValueError, match="must be a power of two, at least 16; got 24"):
        acm_forward(z, k, w, b, v, each=2, blocks={"rows": 24})
    with pytest.raises(ValueError, match="blocks have the names rows, columns, inner, warps, stages; got height"):
        acm_forward(z, k, w, b, v, each=2, blocks={"height": 16})


def test_there_is_no_gradient_and_it_says_so() -> None:
    z, k, w, b, v = example()
    with pytest.raises(RuntimeError, match="the fused execution has no gradient"):
        acm_forward(z, k, w.requires_grad_(), b, v, each=2)


def test_a_model_with_nothing_to_fuse_is_an_error() -> None:
    with pytest.raises(ValueError, match="Linear has no AdaptiveComputationModule"):
        fuse(torch.nn.Linear(2, 2))
    assert AdaptiveComputationModule(8).kernel is None
