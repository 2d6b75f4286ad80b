"""Methods: the propagation rules of relevance, as other derivatives of the functions that a model calls.

Relevance R of a feature a is kept as the ratio c = R / a, which autograd carries backwards like a gradient. In these
terms a residual sum, a concatenation, padding, average and max pooling, ReLU and a constant factor need no rule: with
its own derivative each of them conserves sum(a c). So a sum without a module of its own is split in proportion to its
summands, as zennit's `Sum` module with its `Norm` rule does. The other functions get their rules here, whether a module
calls them or the model's own code does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from zennit.canonizers import NamedMergeBatchNorm

from optogram.errors import ModelError

_ACTIVATIONS = ["relu6", "gelu", "silu", "leaky_relu", "elu", "selu", "celu", "mish", "hardswish", "hardtanh", "tanh"]
"""Activations with f(0) = 0 other than ReLU, by the name of their function."""


class _Rules(TorchFunctionMode):
    """Inside this context, functions that are named in `rules` run by their rule."""

    rules: ClassVar[dict[str, Callable[..., Any]]]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = self.rules.get(getattr(func, "__name__", ""))
        return func(*args, **kwargs or {}) if rule is None else rule(func, *args, **kwargs or {})


class _Shares(torch.autograd.Function):
    """A linear map whose outputs pass relevance to the inputs that contributed with the output's own sign.

    The z+ rule (Bach et al. 2015; Montavon et al. 2017, without bias as there) for positive outputs, its mirror for
    negative ones: the generalised gamma rule (Andeol et al. 2021; zennit's `Gamma`) as gamma grows, which alone keeps
    sum |R| where outputs are negative. Lost is only the relevance of outputs to which no input contributed so.

    What is summed of x w is its positive part (x w + |x| |w|) / 2 or its negative one (x w - |x| |w|) / 2: one map more
    forwards and two backwards, whatever the signs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, linear: Callable[..., Tensor]) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            z = linear(x, weight)
        ctx.of = x, weight.detach(), bias, linear, z
        # the rule needs z when a later function may have changed the output in place
        return z.detach().clone() if bias is None else z.detach() + bias.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight, bias, linear, z = ctx.of
        output = z.detach() if bias is None else z.detach() + bias.detach()
        with torch.enable_grad():
            size = x.detach().abs().requires_grad_()
            sizes = linear(size, weight.abs())
        sign = output.sign()
        contributed = (z.detach() + sign * sizes.detach()) / 2
        # below that it is rounding
        some = contributed.abs() > torch.finfo(z.dtype).eps ** 0.5 * sizes.detach()
        share = torch.where(some, grad_outputs[0] * output / contributed, 0)
        (plain,) = torch.autograd.grad(z, x, share)
        (signed,) = torch.autograd.grad(sizes, size, sign * share)
        return (plain + x.detach().sign() * signed) / 2, None, None, None


def _conv2d(func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    added = None if bias is None else bias[:, None, None]
    return _Shares.apply(x, weight, added, lambda x, weight: func(x, weight, None, *args, **kwargs))


def _linear(func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of tokens like a convolution of 1 x 1; of whole images LRP-0, the derivative itself (zennit's `EpsilonPlus`)."""
    return _Shares.apply(x, weight, bias, func) if x.ndim > 2 else func(x, weight, bias)


def _passed(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Elementwise with f(0) = 0: relevance passes as it is (Achtibat et al. 2024, the identity rule)."""
    values = x.detach()
    found = func(values, *args, **{**kwargs, **({"inplace": False} if "inplace" in kwargs else {})})
    return x * torch.where(values == 0, 0, found / values)


def _constant(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention weights and gates are constants (Arras et al. 2017; Ali et al. 2022)."""
    return func(x.detach(), *args, **kwargs)


def _layer_norm(
    func: Any, x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """The scale is a constant (Ali et al. 2022)."""
    dims = tuple(range(-len(shape), 0))
    variance = x.detach().var(dims, correction=0, keepdim=True)
    x = (x - x.mean(dims, keepdim=True)) * torch.rsqrt(variance + eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _dot_product_attention(func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return func(query.detach(), key.detach(), value, *args, **kwargs)


def _multi_head_attention(
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero: bool,
    dropout: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """nn.MultiheadAttention in its parts, (token, image, width): within it no other rule would be called."""
    masked = options.get("attn_mask") is not None or options.get("key_padding_mask") is not None
    own = query is key and key is value and query.ndim == 3
    if not own or in_weight is None or masked or bias_k is not None or add_zero:
        raise ModelError("no relevance rule for attention other than plain self-attention of tokens, without a mask.")
    biases = (None, None) if in_bias is None else in_bias.split([2 * width, width])
    weights = in_weight.split([2 * width, width])
    packed = torch.cat(
        [F.linear(query.detach(), weights[0], biases[0]), _linear(F.linear, query, weights[1], biases[1])], 2
    )
    q, k, v = packed.unflatten(2, (3, heads, -1)).permute(2, 1, 3, 0, 4)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return _linear(F.linear, mixed.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias), None


def _product(func: Any, a: Any, b: Any) -> Tensor:
    """Of two features, not of a feature and a parameter: half to each (Achtibat et al. 2024, the uniform rule)."""
    if all(isinstance(each, Tensor) and each.requires_grad and not each.is_leaf for each in (a, b)):
        return (func(a, b.detach()) + func(a.detach(), b)) / 2
    return func(a, b)


def _refused(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    # its own derivative would pass on nothing, as its output does not change with the scale of its input
    raise ModelError(f"no relevance rule for {func.__name__}. Use guided_backprop or gradient_x_input.")


class LRP(_Rules):
    """Layer-wise relevance propagation (Bach et al. 2015): gradients inside are the ratios R / a of the module's text.

    Conserves but for what biases, position and class embeddings hold: they keep their share of the sum that they enter.
    Biases of convolutions and of tokens' linear layers get none.
    """

    rules: ClassVar[dict[str, Callable[..., Any]]] = {
        "conv2d": _conv2d,
        "linear": _linear,
        **dict.fromkeys(_ACTIVATIONS, _passed),
        **dict.fromkeys(("softmax", "sigmoid", "hardsigmoid"), _constant),
        "layer_norm": _layer_norm,
        "scaled_dot_product_attention": _dot_product_attention,
        "multi_head_attention_forward": _multi_head_attention,
        "mul": _product,
        **dict.fromkeys(("group_norm", "instance_norm", "rms_norm"), _refused),
    }


class _PositiveGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0].clamp(min=0)


def _guided(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    kwargs.pop("inplace", None)
    apply = getattr(F, func.__name__.removesuffix("_"))
    return _PositiveGradient.apply(apply(torch.where(x > 0, x, x.detach()), *args, **kwargs))


class GuidedBackprop(_Rules):
    """Guided backpropagation (Springenberg et al. 2015): positive gradients only, and only where the input is positive.

    Of ReLU and all its kin (GELU, SiLU, …), whose own derivative is taken where the input is positive.
    """

    rules: ClassVar[dict[str, Callable[..., Any]]] = dict.fromkeys(("relu", "relu_", *_ACTIVATIONS), _guided)


def merge_batch_norms(model: nn.Module, images: Float[Tensor, "image rgb y x"]) -> None:
    """Each batch norm that takes just what a convolution gave is merged into it, in place, and passes its input on.

    Which do is seen from one pass of the images, as the order of modules does not tell it (DenseNet). Others stay: then
    a batch norm is a linear map whose bias keeps its share. All stay if merging them changes the output, as where
    something else reads the convolution too (the stem of a pre-activation ResNet).
    """
    made: dict[str, Tensor] = {}
    pairs: dict[str, str] = {}
    runs: list[nn.Module] = []
    handles = []

    def ran(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        runs.append(module)
        made[name] = output

    def takes(name: str, module: nn.Module, inputs: Any) -> None:
        runs.append(module)
        pairs.update({conv: name for conv, output in made.items() if output is inputs[0]})

    modules = dict(model.named_modules())
    norms = {name: module for name, module in modules.items() if isinstance(module, nn.BatchNorm2d)}
    norms = {name: module for name, module in norms.items() if module.affine and module.track_running_stats}
    try:
        for name, module in modules.items():
            # subclasses may standardise their weights in the pass
            if type(module) is nn.Conv2d:
                handles.append(module.register_forward_hook(partial(ran, name)))
            elif name in norms:
                handles.append(module.register_forward_pre_hook(partial(takes, name)))
        with torch.no_grad():
            before = model(images)
    finally:
        for handle in handles:
            handle.remove()
    once = {conv: norm for conv, norm in pairs.items() if runs.count(modules[conv]) == runs.count(modules[norm]) == 1}
    merged = NamedMergeBatchNorm([([conv], norm) for conv, norm in once.items()]).apply(model)
    eps = {norm: norms[norm].eps for norm in once.values()}
    for norm in eps:
        norms[norm].eps = 0  # zennit leaves it, and with it a factor of 1 / sqrt(1 + eps)
    with torch.no_grad():
        after = model(images)
    if isinstance(before, Tensor) and (after - before).abs().max() > 1e-3 * before.abs().max():
        for canonizer in merged:
            canonizer.remove()
        for norm, value in eps.items():
            norms[norm].eps = value
