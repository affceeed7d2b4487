"""``fastpixcon predict``: class maps of a user's own images, and what is similar to a pixel."""

import argparse
from pathlib import Path

from fastpixcon.cli.options import Verbs, add_model, add_verb, open_models, pixel
from fastpixcon.training import TrainingError

_EXAMPLES = """\
  fastpixcon predict runs/camvid/ce+contrast street.jpg
  fastpixcon predict camvid_lite0_contrast images/*.jpg --out maps
  fastpixcon predict camvid_lite0_contrast street.jpg --pixel 120,200     what is similar to this pixel
  fastpixcon predict camvid_lite0_contrast street.jpg --click             in a window, to the one clicked on"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "predict",
        _run,
        "class maps of images",
        "For every image NAME write NAME_ids.png (class ids, one channel) and NAME_classes.png (image, classes in "
        "colour, legend); with --pixel NAME_similar.png, the cosine of every pixel's embedding with that pixel's.",
        _EXAMPLES,
    )
    add_model(parser, several=False)
    parser.add_argument("image", metavar="IMAGE", type=Path, nargs="+")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("predictions"), help="default predictions")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default auto")
    parser.add_argument("--pixel", metavar="X,Y", type=pixel, help="draw its similarity map")
    parser.add_argument("--click", action="store_true", help="show a window where a click draws the similarity map")


def _run(options: argparse.Namespace) -> int:
    import numpy as np
    from PIL import Image
    from rich.console import Console

    from fastpixcon.training import job
    from fastpixcon.training.figures import Shown, write
    from fastpixcon.training.figures.own_images import class_map, image_of, segmented, similar, similar_window

    (trained,) = open_models([options.model])
    device = job.pick_device(options.device)
    shown = Shown(trained.arm, trained.model.to(device), trained.contrasts)
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.image:
        image = image_of(path)
        if options.click:
            similar_window(shown, image, device)
            continue
        ids = class_map(shown, image, device)
        written = [options.out / f"{path.stem}_ids.png"]
        Image.fromarray(ids.numpy().astype(np.uint8)).save(written[0])
        figure = segmented(image, ids, trained.classes, trained.palette)
        written.append(write(figure, options.out / f"{path.stem}_classes.png"))
        if options.pixel:
            x, y = options.pixel
            height, width = image.shape[-2:]
            if not (0 <= x < width and 0 <= y < height):
                raise TrainingError(f"--pixel: got {x},{y}, want x below {width} and y below {height} for {path}")
            written.append(write(similar(shown, image, (y, x), device), options.out / f"{path.stem}_similar.png"))
        for file in written:
            console.print(f"  {file}", highlight=False, soft_wrap=True)
    return 0
