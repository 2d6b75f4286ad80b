"""Generators: from specs and folders, their latents, images, styles and maps, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import optogram
from examples import dcgan, mobilestylegan
from optogram.errors import ModelError, ParamError, ShapeError
from optogram.models.generative.gan_networks import GanGenerator
from optogram.models.generative.generators import generator_of, load_generator, save_generator, watching
from optogram.models.loading.model_files import folder_kind

DCGAN, STYLED = "callable:examples.dcgan:generator", "callable:examples.mobilestylegan:generator"
SMALL = {"latent": 4, "widths": [6, 5]}
STYLES = {"latent": 8, "widths": [16, 16, 8]}
OWN = "callable:optogram.models.generative.gan_networks:GanGenerator"
CASES = {
    "dcgan": (DCGAN, SMALL, dcgan.generator),
    "styled": (STYLED, STYLES, mobilestylegan.generator),
    "own": (OWN, {"latent": 5, "widths": [12, 6, 4]}, GanGenerator),
}


def made(case="dcgan"):
    """A generator with random weights, nothing at its neutral value."""
    spec, arguments, make = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = make(**arguments)
        for w in [*model.parameters(), *model.buffers()]:
            if w.is_floating_point():
                w.data.add_(0.1 * torch.rand_like(w))
    return generator_of(model, spec=spec, arguments=arguments)


@pytest.fixture(scope="module", params=CASES)
def generator(request):
    return made(request.param)


# Factories that specs of this file name


def small():
    return dcgan.generator(**SMALL)


def no_module():
    return "a text"


def failing():
    raise ValueError("no such file")


class Wrong(nn.Module):
    """A module whose attributes and images a test sets."""

    def __init__(self, latent=3, unit_layers=("relu",), draw=None, **others):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.relu, self.aside = nn.ReLU(), nn.ReLU()
        self.latent, self.unit_layers = latent, unit_layers
        self._draw = draw or (lambda z: torch.full((len(z), 3, 4, 4), 0.5))
        for name, value in others.items():
            setattr(self, name, value)

    def forward(self, latents):
        return self.relu(self._draw(latents))


# Latents and images


def test_latents_follow_from_their_seed_alone():
    generator = made()
    literal = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in (7, 0, 7, 123456)])
    assert torch.equal(generator.latents([7, 0, 7, 123456]), literal)
    assert generator.latents([]).shape == (0, 4)
    assert torch.equal(generator.latents(range(5))[3:], generator.latents([3, 4]))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ParamError, match=rf"seed = {seed}, expected a whole number from 0 to 2\^63 - 1"):
        made().latents([0, seed])


def test_an_image_has_the_same_bytes_whatever_is_beside_it(generator):
    latents = generator.latents(range(19))
    together = generator.images(latents)
    assert together.shape[:2] == (19, 3)
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    for row in (0, 8, 18):
        assert torch.equal(generator.images(latents[row : row + 1])[0], together[row])
    assert torch.equal(generator.images(latents.flip(0)).flip(0), together)
    torch.testing.assert_close(generator.images(latents, batch=3), together, atol=1e-5, rtol=1e-4)
    assert generator.images(latents[:0]).shape == (0, *together.shape[1:])


def test_gradients_pass_to_latents_and_stay_off_the_weights(generator):
    latents = generator.latents([1, 2, 3]).requires_grad_()
    generator.images(latents, batch=2).square().sum().backward()
    again = generator.latents([1, 2, 3]).requires_grad_()
    generator.model(again).square().sum().backward()
    torch.testing.assert_close(latents.grad, again.grad, atol=1e-4, rtol=1e-3)
    assert latents.grad.abs().min() > 0
    assert not any(w.requires_grad for w in generator.model.parameters())


@pytest.mark.parametrize("shape", [(4,), (2, 5), (2, 4, 1)])
@pytest.mark.misfits
def test_latents_of_another_shape_are_refused(shape):
    message = rf"float32 \(image, latent\) with 4 numbers a latent, found torch.float32 of shape \({shape[0]}"
    for draw in (made().images, made().maps):
        with pytest.raises(ShapeError, match=message):
            draw(torch.zeros(shape))
    with pytest.raises(ShapeError, match=r"found torch.float64"):
        made().images(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ParamError, match=r"batch = 0"):
        made().images(torch.zeros(2, 4), batch=0)


# Units


def test_maps_are_what_the_layers_give(generator):
    latents, literal = generator.latents(range(5)), {}
    handles = [
        generator.model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: literal.update({name: output.clone()})
        )
        for name in generator.layers
    ]
    expected = generator.model(latents)
    for handle in handles:
        handle.remove()
    images, found = generator.maps(latents, batch=2)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-4)
    assert list(found) == list(generator.layers)
    for name, maps in found.items():
        assert maps.shape[:2] == literal[name].shape[:2]
        torch.testing.assert_close(maps, literal[name], atol=1e-4, rtol=1e-4)
    assert not any(module._forward_hooks for module in generator.model.modules())
    last = generator.layers[-1]
    assert list(generator.maps(latents, [last])[1]) == [last]


def test_layers_can_be_chosen(generator):
    first, *_, last = generator.layers
    chosen = generator.with_layers([last, first])
    assert chosen.layers == (first, last)
    latents = generator.latents([0, 1])
    whole, part = generator.maps(latents)[1], chosen.maps(latents)[1]
    assert all(torch.equal(part[name], whole[name]) for name in (first, last))
    assert list(part) == [first, last]
    assert generator.with_layers(None) is generator
    with pytest.raises(ModelError, match=f"no layer of units '{last}x'.*Did you mean '{last}'"):
        generator.with_layers([f"{last}x"])


def test_a_pooled_style_generator_draws_means_of_its_pixels():
    torch.manual_seed(0)
    model = mobilestylegan.generator(8, (8, 8, 8)).eval()
    styles = torch.randn(2, 8)
    whole = model.synthesis(styles)
    model.pooled = 2
    found = model.synthesis(styles)
    literal = (whole[..., ::2, ::2] + whole[..., 1::2, ::2] + whole[..., ::2, 1::2] + whole[..., 1::2, 1::2]) / 4
    torch.testing.assert_close(found, literal)
    assert mobilestylegan.small().pooled == 2


def test_units_of_our_own_are_the_relus_by_their_side():
    generator = made("own")
    assert generator.layers == ("relu4", "relu8", "relu16")
    _, maps = generator.maps(generator.latents([0]))
    assert [tuple(each.shape) for each in maps.values()] == [(1, 12, 4, 4), (1, 6, 8, 8), (1, 4, 16, 16)]
    assert all(each.min() >= 0 for each in maps.values())


def test_an_unknown_layer_is_named_and_hooks_go_when_the_model_fails():
    generator = made("own")
    with pytest.raises(ModelError, match=r"no layer of units 'relu9'; there are relu4, .*Did you mean .*'relu8'"):
        generator.maps(generator.latents([0]), ["relu9"])
    with pytest.raises(RuntimeError), watching({"to_rgb": generator.model.to_rgb}):
        generator.model(torch.zeros(2, 99))
    assert not any(module._forward_hooks for module in generator.model.modules())


# Styles


def test_truncation_is_its_definition():
    generator = made("styled")
    latents, model = generator.latents(range(4)), generator.model
    w = model.mapping(latents)
    torch.testing.assert_close(generator.styles(latents), w)
    torch.testing.assert_close(generator.images(latents), model(latents), atol=1e-5, rtol=1e-4)
    half = generator.truncated(0.5)
    torch.testing.assert_close(half.styles(latents), (w + model.w_mean) / 2)
    torch.testing.assert_close(half.images(latents), model.synthesis((w + model.w_mean) / 2), atol=1e-5, rtol=1e-4)
    assert torch.equal(half.images(latents), half.images_of_styles(half.styles(latents)))
    mean = generator.truncated(0).images(latents)
    assert torch.equal(mean, mean[:1].expand_as(mean))
    assert generator.mapping.psi == 1, "the generator itself is as it was"


def test_styles_of_a_generator_without_a_mapping_are_refused():
    generator = made()
    for ask in (generator.styles, generator.images_of_styles, lambda _: generator.truncated(0.7)):
        with pytest.raises(ModelError, match="no mapping of its latents to styles"):
            ask(generator.latents([0]))
    with pytest.raises(ParamError, match=r"psi = -0\.1, expected 0 \(the mean\) to 1"):
        made("styled").truncated(-0.1)


def test_inverse_haar_is_orthonormal_and_its_low_channels_are_means():
    x = torch.randn(2, 12, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mobilestylegan.inverse_haar(x)
    assert found.shape == (2, 3, 6, 10)
    torch.testing.assert_close(found.square().sum(), x.square().sum())
    torch.testing.assert_close(2 * nn.functional.avg_pool2d(found, 2), x[:, :3])
    across = (found[:, 1, ::2] - found[:, 1, 1::2]).unflatten(2, (-1, 2)).sum(3) / 2
    torch.testing.assert_close(
        across, x[:, 3 + 3 * 1 + 0], msg="LH of the second channel is its change from row to row"
    )


# Folders


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 0), (torch.float16, 0.01)])
def test_a_folder_gives_the_generator_back(tmp_path, generator, dtype, off):
    if generator.mapping:
        generator = generator.truncated(0.7)
    save_generator(generator, tmp_path / "g", dtype=dtype, history={"losses": {"generator": [0.5]}})
    assert folder_kind(tmp_path / "g") == "generator"
    assert json.loads((tmp_path / "g/history.json").read_text()) == {"losses": {"generator": [0.5]}}
    again = load_generator(str(tmp_path / "g"), device="cpu")
    latents = generator.latents(range(3))
    assert (again.images(latents) - generator.images(latents)).abs().max() <= off
    assert (again.spec, again.arguments, again.layers) == (generator.spec, generator.arguments, generator.layers)
    assert (again.mapping is None) == (generator.mapping is None)
    assert {w.dtype for w in again.model.parameters()} == {torch.float32}
    assert not again.model.training
    assert not any(w.requires_grad for w in again.model.parameters())


def test_a_folder_is_never_overwritten_nor_left_half_written(tmp_path):
    generator = made()
    save_generator(generator, tmp_path / "g")
    with pytest.raises(ModelError, match="exists already"):
        save_generator(generator, tmp_path / "g")
    with pytest.raises(TypeError):
        save_generator(generator, tmp_path / "h", history={"a": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["g"]


def test_what_would_not_come_back_is_not_saved(tmp_path):
    generator = made()
    with pytest.raises(ModelError, match=r"with \{'latent': 4, 'widths': \[6, 7\]\} is not the generator to be saved"):
        save_generator(replace(generator, arguments={"latent": 4, "widths": [6, 7]}), tmp_path / "g")
    changed = made()
    changed.model.main[2] = nn.LeakyReLU(0.5)
    with pytest.raises(ModelError, match="draws other images of them"):
        save_generator(changed, tmp_path / "g")
    large = made()
    large.model.main[1].running_var.fill_(1e6)
    with pytest.raises(ModelError, match=r"main\.1\.running_var is too large for torch\.float16\. Save it with dtype="):
        save_generator(large, tmp_path / "g")
    save_generator(large, tmp_path / "g", dtype=torch.float32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda path: (path / "config.json").unlink(), r"config\.json is missing"),
        (lambda path: (path / "config.json").write_text("{"), r"cannot be read"),
        (lambda path: (path / "model.safetensors").write_bytes(b"1234567890"), r"cannot be read"),
        (lambda path: (path / "config.json").write_text('{"kind": "generator"}'), r"cannot be read: KeyError"),
        (lambda path: (path / "config.json").write_text('{"kind": "classifier"}'), r"is the folder of a classifier"),
        (lambda path: save_file({"a": torch.zeros(1)}, path / "model.safetensors"), r"tensor a does not fit config"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, spoil, message):
    save_generator(made(), tmp_path / "g")
    spoil(tmp_path / "g")
    with pytest.raises(ModelError, match=message):
        load_generator(str(tmp_path / "g"))


def test_a_folder_has_weights_of_its_own(tmp_path):
    save_generator(made(), tmp_path / "g")
    with pytest.raises(ModelError, match=r"is a folder with weights of its own\. Leave the checkpoint x\.pt out"):
        load_generator(str(tmp_path / "g"), checkpoint="x.pt")


# Specs


def test_the_library_offers_it_and_a_callable_takes_a_checkpoint(tmp_path):
    generator = made()
    save_file(
        {f"module.{name}": w.half() for name, w in generator.model.state_dict().items() if w.ndim},
        tmp_path / "w.safetensors",
    )
    before = torch.get_rng_state()
    found = optogram.load_generator(f"callable:{__name__}:small", checkpoint=tmp_path / "w.safetensors", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    latents = generator.latents([0, 1])
    torch.testing.assert_close(found.images(latents), generator.images(latents), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", r"generator '': no such folder, and no spec\. Expected callable:MODULE:FACTORY, or the path"),
        ("artifacts/generators/none", r"no such folder"),
        ("timm:resnet18", r"no such folder, and no spec"),
        ("calable:examples.dcgan:generator", r"Did you mean 'callable'"),
        ("callable:", r"no such folder, and no spec"),
        ("callable:examples.dcgan", r"expected callable:package.module:factory"),
        ("callable:examples.dcgan:generators_", r"no function 'generators_'. Did you mean 'generator'"),
        ("x" * 300, r"cannot be reached \(File name too long\)"),
        (f"callable:{__name__}:no_module", r"the factory returned str; expected a torch module"),
        (f"callable:{__name__}:failing", r"the factory failed: ValueError: no such file"),
    ],
)
def test_specs_that_name_nothing(spec, message):
    with pytest.raises(ModelError, match=message):
        load_generator(spec, device="cpu")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"latent": None}, r"latent = None; expected the size of a latent"),
        ({"unit_layers": None}, r"unit_layers = None; expected names of the layers"),
        ({"unit_layers": "relu"}, r"unit_layers = 'relu'; expected names"),
        ({"unit_layers": ("rel",)}, r"unit_layers names 'rel', which is no layer\. Did you mean 'relu'"),
        ({"unit_layers": ("aside",)}, r"its layer aside gave nothing for 2 latents; expected one map"),
        ({"draw": lambda z: z @ torch.zeros(7, 7)}, r"draws nothing of latents \(2, 3\): RuntimeError: .*shapes"),
        ({"draw": lambda z: torch.zeros(len(z), 1, 4, 4)}, r"of shape \(2, 1, 4, 4\) of 2 latents; expected float32"),
        ({"draw": lambda z: torch.zeros(len(z), 3, 4, 4).half()}, r"makes torch\.float16"),
        (
            {"draw": lambda z: 2 + torch.zeros(len(z), 3, 4, 4)},
            r"draws images from 2 to 2; expected colours from 0 to 1",
        ),
        ({"draw": lambda z: torch.full((len(z), 3, 4, 4), torch.nan)}, r"draws images from nan to nan"),
        ({"mapping": nn.Identity()}, r"has a mapping, but expected are a module `mapping` and a `synthesis`"),
        (
            {"mapping": nn.Identity(), "synthesis": abs, "w_mean": torch.zeros(3)},
            r"w_mean is \(3,\); expected the mean",
        ),
    ],
)
@pytest.mark.misfits
def test_a_module_that_is_no_generator_is_refused(others, message):
    with pytest.raises(ModelError, match=message):
        generator_of(Wrong(**others), spec="callable:a:b")


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    spec, path = f"callable:{__name__}:small", tmp_path / "w.safetensors"
    weights = {name: w.clone() for name, w in made().model.state_dict().items()}
    for changed, message in (
        ({"main.0.weight": torch.zeros(2, 2)}, r"main\.0\.weight has shape \(2, 2\), expected \(4, 6, 4, 4\)"),
        ({"main.1.bias": torch.full((6,), torch.nan)}, r"NaN in main\.1\.bias"),
        ({"more": torch.zeros(2)}, r"1 tensors unexpected: more"),
    ):
        save_file(weights | changed, path)
        with pytest.raises(ModelError, match=message):
            load_generator(spec, checkpoint=path, device="cpu")
    with pytest.raises(ModelError, match=r"does not exist; expected a \.safetensors or \.pt file"):
        load_generator(spec, checkpoint=tmp_path / "none.safetensors", device="cpu")
