"""The slow oracle: eq. 3.1, 3.3 and B.2-B.5 of the thesis term by term in float64, every effect vector materialised."""

import copy

import torch


def run(model, images):
    """What the equations speak of: for each layer LN_1's input, the class token's attention, p; and the final token."""
    visual = copy.deepcopy(model.visual).double()
    inputs, attention, activations = [], [], []
    with torch.no_grad():
        x = visual._embeds(images.double())
        for block in visual.transformer.resblocks:
            inputs.append(x)
            y, heads = block.ln_1(x), block.attn.num_heads
            mixed, weights = block.attn(y, y, y, need_weights=True, average_attn_weights=False)
            assert weights.shape[1] == heads
            attention.append(weights[:, :, 0])
            x = x + block.ls_1(mixed)
            p = block.mlp.gelu(block.mlp.c_fc(block.ln_2(x)))
            activations.append(p)
            x = x + block.ls_2(block.mlp.c_proj(p))
    return visual, inputs, attention, activations, x[:, 0]


def layer_norm_parts(norm, x):
    """A and B of eq. B.2, LN(x) = A * x - B: each of x's shape."""
    sigma = torch.sqrt(x.var(-1, correction=0, keepdim=True) + norm.eps)
    a = (norm.weight / sigma).expand_as(x)
    b = x.mean(-1, keepdim=True) * norm.weight / sigma - norm.bias
    assert torch.allclose(a * x - b, norm(x))
    return a, b


def output_weights(block, neuron):
    """w of eq. 3.1."""
    w = block.mlp.c_proj.weight[:, neuron]
    return block.ls_2.gamma * w if hasattr(block.ls_2, "gamma") else w


@torch.no_grad()
def effects(model, images, layer, neurons, shifts=True):
    """phi_n(I) (image, neuron, embed): eq. B.5, a sum over l', h and i of vectors, with B's shares if `shifts`."""
    visual, inputs, attention, activations, final = run(model, images)
    blocks = visual.transformer.resblocks
    count, total = blocks[0].mlp.c_proj.in_features, len(blocks)
    a_post, b_post = layer_norm_parts(visual.ln_post, final)
    phi = torch.zeros(len(images), len(neurons), visual.proj.shape[1], dtype=torch.float64)
    for at, neuron in enumerate(neurons):
        w = output_weights(blocks[layer], neuron)
        for image in range(len(images)):
            for later in range(layer + 1, total):
                block = blocks[later]
                a, b = layer_norm_parts(block.ln_1, inputs[later][image])
                width, heads = a.shape[1], block.attn.num_heads
                size = width // heads
                for h in range(heads):
                    part = slice(h * size, (h + 1) * size)
                    w_vo = block.attn.out_proj.weight[:, part] @ block.attn.in_proj_weight[2 * width :][part]
                    if hasattr(block.ls_1, "gamma"):
                        w_vo = block.ls_1.gamma[:, None] * w_vo
                    for i in range(a.shape[0]):
                        written = activations[layer][image, i, neuron] * a[i] * w
                        if shifts:
                            written = written - b[i] / (count * later)
                        through = a_post[image] * (attention[later][image, h, i] * w_vo @ written)
                        phi[image, at] += through @ visual.proj
            if shifts:
                phi[image, at] -= b_post[image] / (count * (total - 1)) @ visual.proj
    return phi.numpy()


@torch.no_grad()
def first_order(model, images, layer, neurons):
    """P LN(e_0) with B shared equally by all neurons: eq. 3.1 and B.2."""
    visual, _, _, activations, final = run(model, images)
    blocks = visual.transformer.resblocks
    count = blocks[0].mlp.c_proj.in_features * len(blocks)
    a, b = layer_norm_parts(visual.ln_post, final)
    w = torch.stack([output_weights(blocks[layer], neuron) for neuron in neurons])
    e = activations[layer][:, 0, neurons, None] * w
    return ((a[:, None] * e - b[:, None] / count) @ visual.proj).numpy()


@torch.no_grad()
def without_neuron(model, images, layer, neuron, mean):
    """Image embeddings with a neuron's activation replaced by its mean at every token, by running it in float64."""

    def replace(_, __, p):
        p = p.clone()
        p[:, :, neuron] = mean.double()
        return p

    visual = copy.deepcopy(model.visual).double()
    visual.transformer.resblocks[layer].mlp.gelu.register_forward_hook(replace)
    return visual(images.double()).numpy()
