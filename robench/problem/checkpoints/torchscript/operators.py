"""The operators that a TorchScript program may use without consent: they compute on tensors, numbers, text and lists.

An operator belongs here if it has no effect outside the memory of the process: it opens no file, starts no process or
thread, prints nothing and changes no global setting except the gradient mode. Unlisted operators are refused, even
harmless ones, and so are all other namespaces. `NAME` stands for every overload of `aten::NAME` (including `out`, which
writes to a tensor) and for its in-place form `NAME_`.
"""

_TENSORS = {
    "arithmetic": """
        abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin
        asinh atan atan2 atanh ceil clamp clamp_max clamp_min clip conj conj_physical copysign cos cosh deg2rad digamma
        div divide erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmax fmin fmod frac frexp
        heaviside hypot i0 imag ldexp lerp lgamma log log10 log1p log2 logaddexp logaddexp2 logit maximum minimum mul
        multiply nan_to_num neg negative positive pow rad2deg real reciprocal remainder resolve_conj resolve_neg round
        rsqrt rsub sgn sigmoid sign signbit sin sinc sinh sqrt square sub subtract tan tanh true_divide trunc
        view_as_complex view_as_real xlogy special_erf special_erfc special_exp2 special_expit special_expm1
        special_log1p special_log_softmax special_logit special_logsumexp special_ndtr special_softmax special_xlogy
        """,
    "comparison and logic": """
        allclose bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor eq equal ge
        greater greater_equal gt isclose isfinite isin isinf isnan isneginf isposinf isreal le less less_equal
        logical_and logical_not logical_or logical_xor lt ne not_equal __and__ __iand__ __ilshift__ __ior__ __irshift__
        __ixor__ __lshift__ __or__ __rshift__ __xor__
        """,
    "reduction": """
        all amax amin aminmax any argmax argmin count_nonzero cummax cummin cumprod cumsum dist kthvalue logcumsumexp
        logsumexp max mean median min mode nanmean nanmedian nansum norm prod quantile std std_mean sum topk trace var
        var_mean linalg_matrix_norm linalg_norm linalg_vector_norm nuclear_norm frobenius_norm
        """,
    "products and linear algebra": """
        addbmm addmm addmv addr baddbmm bilinear bmm cdist chain_matmul cosine_similarity cross det diff dot einsum
        inner inverse kron linear linalg_cross linalg_det linalg_inv linalg_matmul linalg_matrix_exp
        linalg_matrix_power linalg_multi_dot linalg_pinv linalg_qr linalg_solve linalg_svd logdet matmul matrix_exp
        matrix_power mm mv outer pairwise_distance pinverse tensordot vdot _weight_norm
        """,
    "shape and size": """
        adjoint atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to chunk concat concatenate cat
        column_stack contiguous diag diag_embed diagflat diagonal dim dsplit dstack element_size expand expand_as
        flatten flip fliplr flipud hsplit hstack is_complex is_contiguous is_floating_point is_nonzero is_same_size
        is_signed mH mT matrix_H meshgrid moveaxis movedim narrow numel numpy_T permute ravel repeat repeat_interleave
        reshape reshape_as roll rot90 row_stack select size split split_with_sizes squeeze stack storage_offset stride
        swapaxes swapdims sym_numel sym_size sym_storage_offset sym_stride t tensor_split tile transpose tril triu
        unbind unflatten unfold unsqueeze view view_as vsplit vstack unsafe_chunk unsafe_split unsafe_split_with_sizes
        _reshape_from_tensor _shape_as_tensor
        """,
    "indexing": """
        argsort argwhere bincount bucketize constant_pad_nd fill fill_diagonal_ gather index index_add index_copy
        index_copy_ index_fill index_put index_reduce index_select masked_fill masked_scatter masked_select msort
        nonzero nonzero_numpy scatter scatter_add scatter_reduce searchsorted select_scatter slice slice_scatter
        diagonal_scatter sort take take_along_dim tril_indices triu_indices unique_consecutive unique_dim where zero
        """,
    "creation and conversion": """
        arange as_tensor clone complex copy cpu cuda detach empty empty_like eye full full_like hann_window
        hamming_window item linspace logspace new_empty new_full new_ones new_zeros one_hot ones ones_like polar
        requires_grad_ result_type promote_types can_cast scalar_tensor tensor to to_dense type_as vander zeros
        zeros_like _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short
        _local_scalar_dense lift_fresh
        """,
    "noise": """
        bernoulli cauchy exponential geometric log_normal multinomial normal poisson rand rand_like randint
        randint_like randn randn_like random randperm uniform
        """,
    "layers": """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        adaptive_max_pool3d affine_grid_generator alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm celu
        channel_shuffle col2im conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d
        convolution dropout elu embedding feature_alpha_dropout feature_dropout gelu glu grid_sampler group_norm gru
        gru_cell hardshrink hardsigmoid hardswish hardtanh im2col instance_norm layer_norm leaky_relu log_sigmoid
        log_softmax lstm lstm_cell max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
        max_pool3d_with_indices mish pad pixel_shuffle pixel_unshuffle prelu reflection_pad1d reflection_pad2d
        reflection_pad3d relu relu6 replication_pad1d replication_pad2d replication_pad3d rms_norm rnn_relu
        rnn_relu_cell rnn_tanh rnn_tanh_cell rrelu scaled_dot_product_attention selu silu softmax softplus softshrink
        threshold upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
        upsample_nearest3d upsample_trilinear3d __interpolate __upsample __upsample_bilinear __upsample_nearest
        _convolution _convolution_mode _native_multi_head_attention _transformer_encoder_layer_fwd
        _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
        _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _nested_tensor_from_mask
        _nested_tensor_from_mask_left_aligned to_padded_tensor
        """,
    "signal": """
        fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft
        fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn
        """,
    "losses": """
        binary_cross_entropy binary_cross_entropy_with_logits cross_entropy_loss kl_div l1_loss mse_loss nll_loss
        nll_loss_nd smooth_l1_loss
        """,
}

_SCALARS = {
    "numbers": """
        Bool Complex ComplexImplicit Float FloatImplicit Int IntImplicit ScalarImplicit degrees divmod factorial
        floordiv gcd mathremainder modf radians __not__ __round_to_zero_floordiv
        """,
    "text, without what makes a character of a number": """
        capitalize count endswith find format isalpha isdigit join lower lstrip ord replace rfind rstrip startswith str
        strip title upper
        """,
    "lists and dictionaries": """
        Delete append clear dict extend get insert items keys len list pop popitem remove reverse setdefault sorted
        update values __contains__ __derive_index __getitem__ __range_length _set_item _infer_size _unwrap_optional
        """,
    "identity": "__is__ __isnot__",
    "settings that are read, and the gradient mode": """
        device get_device has_torch_function is_autocast_cpu_enabled is_autocast_enabled is_grad_enabled is_scripting
        set_grad_enabled _get_tracing_state
        """,
    "warnings": "warn",
}

_PRIMITIVES = """
    CallFunction CallMethod Constant CreateObject DictConstruct Enter EnumName EnumValue Exit GetAttr If ListConstruct
    ListUnpack Loop ModuleContainerIndex NumToTensor RaiseException SetAttr StringIndex TupleConstruct TupleIndex
    TupleSlice TupleUnpack Uninitialized abs data device dtype grad index is_cpu is_cuda is_meta is_mkldnn is_mps
    is_nested is_quantized is_sparse is_sparse_csr is_vulkan is_xla is_xpu isinstance itemsize layout max min rangelist
    requires_grad tolist type unchecked_cast unchecked_unwrap_optional
    """

COMPUTING = frozenset(
    [f"aten::{name}" for names in (*_TENSORS.values(), *_SCALARS.values()) for name in names.split()]
    + [f"prim::{name}" for name in _PRIMITIVES.split()]
)
"""Kinds of graph nodes, without in-place forms."""


def computes(kind: str) -> bool:
    """Whether nodes of this kind (`aten::conv2d`, `prim::If`) only compute."""
    return kind in COMPUTING or (kind.startswith("aten::") and kind.endswith("_") and kind[:-1] in COMPUTING)
