"""What the engine uses of transformers and torch without their promise: pinned, and this says what moved."""

import inspect

import pytest

pytestmark = pytest.mark.unit
pytest.importorskip("torch")


def test_the_versions_are_the_ones_that_we_read():
    import torch
    import transformers

    assert transformers.__version__ == "5.23.0"
    assert torch.__version__.split("+")[0] == "2.13.0"


def test_the_manager_has_the_attributes_that_a_lane_replaces():
    from transformers.generation.continuous_batching.continuous_api import (
        BackgroundThreadStatus,
        ContinuousBatchingManager,
        ContinuousBatchProcessor,
        OutputRouter,
    )

    manager = inspect.getsource(ContinuousBatchingManager)
    for name in (
        "self.logit_processor",
        "self.output_router",
        "self._generation_thread",
        "self.batch_processor",
    ):
        assert f"{name} = " in manager or f"{name}:" in manager
    for method in ("_run_generation_loop", "_generation_step", "switch_to_cb_friendly_attn"):
        assert callable(getattr(ContinuousBatchingManager, method))
    assert "hard_stop" in inspect.signature(ContinuousBatchingManager.stop).parameters
    assert "self.fatal_error" in inspect.getsource(BackgroundThreadStatus)
    for method in ("deliver", "deliver_batch", "fail_and_deliver"):
        assert callable(getattr(OutputRouter, method))
    assert "self.logit_processor.check_kwargs(" in inspect.getsource(ContinuousBatchProcessor)


def test_the_sampler_stands_where_the_list_of_processors_is_called():
    from transformers.generation.continuous_batching import input_outputs, model_runner

    ios = inspect.getsource(input_outputs.ContinuousBatchingIOs)
    for use in ("logit_processor.tensors_required", "logit_processor.fill_defaults(", "prepare_tensor_args("):
        assert use in ios
    assert "self.read_index_storage" in ios
    assert "self.requests_in_batch" in ios
    runner = inspect.getsource(model_runner.ModelRunner)
    assert "self.logit_processor.do_processing" in runner
    assert "torch.argmax(probs" in runner


def test_the_cache_has_the_places_that_attention_reads():
    """Pages of all layers in turn, keys before values: so `attention.views_of` counts them too."""
    from transformers.generation.continuous_batching.cache import PagedAttentionCache
    from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator

    assert "self.cache_allocators" in inspect.getsource(PagedAttentionCache)
    allocator = inspect.getsource(FullAttentionCacheAllocator)
    for line in (
        "cache_shape = (total_tokens, 2, self.num_key_value_heads, self.head_dim)",
        "for i, layer_idx in enumerate(self.layer_indices):",
        "k_view = flattened_view[(2 * i + 0) * self.tokens_per_page :]",
        "v_view = flattened_view[(2 * i + 1) * self.tokens_per_page :]",
    ):
        assert line in allocator


def test_packed_weights_multiply_as_plain_ones():
    import torch

    from inference.engine.packed import PackedLinear, can_pack

    if not can_pack(torch.device("cpu"), torch.bfloat16):
        pytest.skip("this processor has no fast bf16")
    layer = torch.nn.Linear(96, 40).bfloat16()
    packed = PackedLinear(layer.weight.detach(), layer.bias.detach())
    for shape in ((1, 96), (16, 96), (2, 33, 96)):
        rows = torch.randn(shape).bfloat16()
        assert torch.allclose(packed(rows), layer(rows), atol=0.02)


def test_the_runner_has_what_graphs_are_chosen_by():
    """What inference/engine/cuda.py calls on a GPU; nothing of it runs here."""
    from torch.nn.attention.varlen import varlen_attn
    from transformers import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.cache import PagedAttentionCache
    from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs
    from transformers.generation.continuous_batching.model_runner import ModelRunner

    from inference.engine import cuda

    ContinuousBatchingConfig(**cuda.graph_config())
    form = inspect.signature(ModelRunner._get_forward_fn)
    assert list(form.parameters) == ["self", "use_block_table"]
    warmup = inspect.signature(ModelRunner.run_one_warmup)
    assert {"num_q_tokens", "max_kv_read"} <= warmup.parameters.keys()
    assert "self._get_forward_fn(use_block_table=" in inspect.getsource(ModelRunner.compute_batch)
    assert "self.num_q_tokens = num_q_tokens" in inspect.getsource(ContinuousBatchingIOs)
    assert callable(ContinuousBatchingIOs.get_graph) and callable(PagedAttentionCache.update)
    assert {"scale", "window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()
