import subprocess
import sys

from imprint.kernels import language


def test_without_triton_a_kernel_stays_a_function() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from imprint.kernels import language, quantized_kernels, launch\n"
        "print(language.triton, language.tl, quantized_kernels.dequantize_kernel.__name__)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)

    assert done.stdout.split() == ["None", "None", "dequantize_kernel"]


def test_triton_and_its_language_are_there_together() -> None:
    assert (language.triton is None) == (language.tl is None)
