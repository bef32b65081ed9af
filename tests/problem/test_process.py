"""An evaluation does not depend on settings of the process."""

import torch

from robench.problem.process import plain_process


def test_new_tensors_are_float32_on_the_cpu_whatever_the_caller_has_set():
    with torch.device("meta"), torch.inference_mode():
        torch.set_default_dtype(torch.float64)
        try:
            with plain_process():
                new = torch.zeros(1)
                assert (new.device.type, new.dtype, new.is_inference()) == ("cpu", torch.float32, False)
                assert torch.is_grad_enabled()
            assert torch.zeros(1).device.type == "meta"
            assert torch.get_default_dtype() == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)


def test_operations_do_not_pass_through_python_code_of_torch():
    """On small batches it would take as long as the operations."""
    with plain_process():
        assert torch._C._len_torch_function_stack() == 0
