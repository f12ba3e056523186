import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fmnist.data.photos import MAX_PIXELS, PictureError, convert
from fmnist.data.read import read_picture
from fmnist.data.sources.download import VerifiedFashionMNIST


def shoe(size=(120, 80), box=(20, 30, 100, 60), fill=(40, 60, 90), background="white", mode="RGB"):
    """A dark bar on a light background."""
    picture = Image.new(mode, size, background)
    picture.paste(fill, box)
    return picture


def middle(image):
    """The rows of the bar and the rows outside, once the picture has been trimmed to it."""
    rows = image[0].float().mean(1)
    return rows[9:19].mean().item(), torch.cat([rows[:7], rows[-7:]]).mean().item()


REFERENCE = convert(shoe()).image


def encode(picture, kind, **options):
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def test_grey_pictures_of_the_right_size_on_black_pass_bit_for_bit(real_root, tmp_path):
    images = VerifiedFashionMNIST(real_root, train=False).data[:500]
    for image in images.numpy():
        for mode in ("L", "RGB", "RGBA"):
            converted = convert(Image.fromarray(image).convert(mode))
            assert (converted.image[0].numpy() == image).all()
            assert converted.note == ""
    Image.fromarray(images[0].numpy()).save(tmp_path / "one.png")
    assert (read_picture(tmp_path / "one.png").image[0] == images[0]).all()


def test_a_dark_thing_on_white_becomes_light_on_black_trimmed_and_centred():
    converted = convert(shoe())
    assert converted.image.shape == (1, 28, 28)
    assert converted.image.dtype == torch.uint8
    inside, outside = middle(converted.image)
    assert inside > 180
    assert outside == 0
    assert converted.image[0, 14].min() > 150, "the longest edge fills the picture"
    assert converted.note == "light background: inverted"


def test_a_dark_background_is_found_and_kept():
    converted = convert(ImageOps.invert(shoe()))
    assert converted.note == "dark background: kept"
    assert (converted.image.int() - REFERENCE.int()).abs().max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK"])
def test_formats_and_modes_give_the_same_picture(tmp_path, kind, mode):
    picture = shoe(fill=(0, 0, 0)).convert(mode)
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    try:
        content = encode(picture, kind, **options)
    except (OSError, ValueError):
        content = encode(picture.convert("RGB"), kind, **options)  # not every format has every mode
    (tmp_path / "file").write_bytes(content)
    expected = convert(shoe(fill=(0, 0, 0))).image
    found = read_picture(tmp_path / "file").image
    assert (found.int() - expected.int()).abs().float().mean() < 4


def test_16_bits_are_scaled_and_not_cut(tmp_path):
    values = np.full((40, 60), 60000, np.uint16)
    values[10:30, 5:55] = 8000
    Image.fromarray(values).save(tmp_path / "deep.png")
    deep = read_picture(tmp_path / "deep.png").image
    flat = convert(Image.fromarray((values / 257).astype(np.uint8))).image
    assert (deep.int() - flat.int()).abs().max() <= 1


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (12, 4095)])
def test_whole_numbers_are_scaled_by_the_bits_they_use(bits, top):
    values = np.full((40, 60), top, np.uint16)
    values[10:30, 5:55] = top // 8
    converted = convert(Image.fromarray(values))
    assert converted.note == f"taken as {bits} bits; light background: inverted"
    assert converted.image.max() > 200


def test_infinite_pixels_do_not_matter():
    values = np.ones((40, 60), np.float32)
    values[10:30, 5:55] = 0.1
    expected = convert(Image.fromarray(values)).image
    values[0, 30] = np.inf
    assert torch.equal(convert(Image.fromarray(values)).image, expected)


def test_the_callers_picture_stays_as_it_is(tmp_path):
    shoe((3000, 2000), (100, 100, 2900, 1900)).save(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as picture:
        convert(picture)
        assert picture.size == (3000, 2000)


def test_light_clothing_without_a_background_is_put_on_black():
    picture = Image.new("RGBA", (120, 80), (0, 0, 0, 0))
    picture.paste((255, 255, 255, 255), (20, 30, 100, 60))
    converted = convert(picture)
    assert converted.note == "transparent: put on black; dark background: kept"
    assert middle(converted.image)[0] > 180


def test_transparent_pictures_are_put_on_white():
    picture = shoe().convert("RGBA")
    alpha = Image.new("L", picture.size, 0)
    alpha.paste(255, (20, 30, 100, 60))
    picture.putalpha(alpha)
    picture.paste((0, 0, 0, 0), (0, 0, 120, 10))  # what is transparent has no colour
    converted = convert(picture)
    assert converted.note == "transparent: put on white; light background: inverted"
    assert (converted.image.int() - REFERENCE.int()).abs().max() <= 1


def test_the_cameras_orientation_is_obeyed(tmp_path):
    upright = shoe((80, 120), (30, 20, 50, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to see it upright
    upright.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright.save(tmp_path / "upright.jpg", quality=95)
    turned, expected = (read_picture(tmp_path / f"{name}.jpg").image.int() for name in ("turned", "upright"))
    assert (turned - expected).abs().float().mean() < 3


def test_the_first_of_several_frames_is_taken(tmp_path):
    shoe().save(tmp_path / "two.gif", save_all=True, append_images=[Image.new("RGB", (120, 80), "white")])
    assert middle(read_picture(tmp_path / "two.gif").image)[0] > 180


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (28, 28), (3, 2000)])
def test_odd_shapes_and_empty_pictures(size):
    converted = convert(Image.new("RGB", size, "white"))
    assert converted.image.shape == (1, 28, 28)
    assert converted.image.max() == 0
    assert "nothing but background" in converted.note


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a picture"),
        (b"hello", "is not a picture"),
        (encode(shoe(), "PNG")[:200], "is damaged"),
        (encode(shoe(), "JPEG")[:300], "is damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is not a picture"),
    ],
)
def test_bad_files_are_refused_with_a_reason(tmp_path, content, message):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(PictureError, match=message):
        read_picture(tmp_path / "bad")


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    for name, size in (("large", (side, side)), ("huge", (30_000, 30_000))):
        Image.new("1", size).save(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size < 1_000_000
        with pytest.raises(PictureError, match="million"):
            read_picture(tmp_path / f"{name}.png")


def test_a_jpeg_may_be_larger_than_other_pictures(monkeypatch):
    """One of 200 megapixels, as phones take them, is decoded at an eighth of its size."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)  # Pillow refuses twice as many
    large = shoe((2400, 1600), (400, 600, 2000, 1200))
    inside, outside = middle(read_picture(io.BytesIO(encode(large, "JPEG"))).image)
    assert inside > 180
    assert outside == 0
    with pytest.raises(PictureError, match="million"):
        read_picture(io.BytesIO(encode(large, "PNG")))


@pytest.mark.signals
def test_only_files_are_opened(tmp_path):
    for path, message in ((tmp_path, "is not a file"), ("/dev/zero", "is not a file"), (tmp_path / "x", "not exist")):
        with pytest.raises(PictureError, match=message):
            read_picture(path)


def painted(thing, background, noise=0.0):
    """A shirt of one colour on a plain background, 300 pixels a side."""
    mask = np.zeros((300, 300, 1))
    mask[60:240, 100:200] = mask[60:120, 50:250] = 1
    values = mask * np.array(thing) + (1 - mask) * np.array(background)
    values = values + noise * np.random.default_rng(0).standard_normal((300, 300, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


COLORS = {"black": (0,) * 3, "grey": (128,) * 3, "white": (255,) * 3, "red": (220, 20, 30), "green": (20, 140, 40)}


@pytest.mark.parametrize("background", COLORS.values(), ids=COLORS)
@pytest.mark.parametrize("thing", COLORS.values(), ids=COLORS)
def test_a_thing_of_any_colour_stands_out_on_any_background(thing, background):
    converted = convert(painted(thing, background))
    if thing == background:
        assert (converted.empty, converted.note, int(converted.image.max())) == (True, "nothing but background", 0)
        return
    seen = converted.image[0] > 150
    assert not converted.empty
    assert 440 < seen.sum() < 490, "14 x 25 pixels and two sleeves of 7 x 8"
    assert seen[2].any(), "it is trimmed"
    assert not seen[0].any(), "and centred"
    assert ("kept" in converted.note) == (sum(thing) > sum(background))


def test_a_weak_contrast_is_stretched_and_noise_is_not():
    pale = convert(painted((145,) * 3, (128,) * 3))
    assert pale.note == "light background: kept; weak contrast: stretched"
    assert pale.image.max() > 240
    for noise in (2, 5, 10):
        blank = convert(painted((200,) * 3, (200,) * 3, noise))
        assert blank.empty
        assert blank.image.max() < 20
    assert "stretched" not in convert(painted((0,) * 3, (255,) * 3)).note


def test_it_is_said_that_much_of_a_thing_is_as_light_as_the_background():
    picture = np.asarray(painted((20,) * 3, (255,) * 3)).copy()
    picture[75:225, 115:185] = 255
    assert "a large part is as light as the background" in convert(Image.fromarray(picture)).note


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (64, 48), (3, 2000)])
@pytest.mark.parametrize("conversion", ["resize", "crop"])
def test_colour_keeps_its_colours_in_any_shape(size, conversion):
    converted = convert(Image.new("RGB", size, (200, 10, 60)), conversion, (3, 48, 64))
    assert (converted.image.flatten(1) == torch.tensor([[200], [10], [60]])).all()
    assert (converted.note, converted.empty) == ("", False)


def test_colour_fits_the_picture_in_or_crops_its_middle():
    picture = Image.new("RGB", (200, 100), "red")
    picture.paste((0, 0, 255), (50, 10, 150, 90))  # a wide red border left and right
    fitted, cropped = (convert(picture, how, (3, 40, 40)).image for how in ("resize", "crop"))
    assert fitted[:, :10].flatten(1).unique(dim=1).T.tolist() == [[255, 0, 0]], "the edges have the border's colour"
    assert fitted[:, 20, [0, 20]].T.tolist() == [[255, 0, 0], [0, 0, 255]]
    assert cropped[:, 20, [0, 20]].T.tolist() == [[0, 0, 255], [0, 0, 255]], "the middle fills it"
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO(encode(picture.rotate(90, expand=True), "PNG", exif=exif))
    assert torch.equal(read_picture(content, None, "resize", (3, 40, 40)).image, fitted), "as the camera was held"
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    clear.putpixel((5, 5), (0, 0, 255, 255))
    assert convert(clear, "resize", (3, 10, 10)).image[:, 0, 0].tolist() == [255, 255, 255], "on white"


def test_grey_of_another_size_is_converted_like_the_data_set():
    large = convert(shoe(), "distance", (1, 56, 84))
    assert large.image.shape == (1, 56, 84)
    assert large.note == "light background: inverted"
    assert large.image[0, 28].min() > 150, "the longest edge fills the picture"
    assert large.image[0, :12].max() == 0
    same = np.zeros((56, 84), np.uint8)
    same[20:30] = 90
    assert (convert(Image.fromarray(same), "distance", (1, 56, 84)).image[0].numpy() == same).all()
