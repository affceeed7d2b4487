"""``fastpixcon predict``: class maps of a user's own images, and what is similar to a pixel."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastpixcon.cli.options import Verbs, add_model, add_overwrite, add_verb, model_files, open_models, pixel
from fastpixcon.cli.process import complain

if TYPE_CHECKING:
    from fastpixcon.training.writing import Outputs

_EXAMPLES = """\
  fastpixcon predict runs/camvid/ce+contrast street.jpg
  fastpixcon predict camvid_lite0_contrast images/*.jpg --out maps
  fastpixcon predict runs/cityscapes/ce+contrast test/*/*.png --ids dataset --no-pictures    for its server
  fastpixcon predict camvid_lite0_contrast street.jpg --embeddings        numpy.load reads them
  fastpixcon predict camvid_lite0_contrast street.jpg --pixel 120,200     what is similar to this pixel
  fastpixcon predict camvid_lite0_contrast street.jpg --click             in a window, to the one clicked on"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "predict",
        _run,
        "class maps of images",
        "For every image NAME write NAME_ids.png (class ids, one channel) and NAME_classes.png (image, classes in "
        "colour, legend); with --pixel NAME_similar.png, the cosine of every pixel's embedding with that pixel's; with "
        "--embeddings NAME_embeddings.npy. Images of one NAME are an error. A picture that can't be drawn is a line, "
        "and exit status 1.",
        _EXAMPLES,
    )
    add_model(parser, several=False)
    parser.add_argument("image", metavar="IMAGE", type=Path, nargs="+")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("predictions"), help="default predictions")
    add_overwrite(parser)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default auto")
    ids = (
        "of NAME_ids.png: train (default), 0 to K - 1, or those in the data set's own labels, as its server wants them"
    )
    parser.add_argument("--ids", choices=["train", "dataset"], default="train", help=ids)
    rows = "float32 [D, h, w] of length 1 along D, as the contrast has them; h, w as the network's features"
    parser.add_argument("--embeddings", action="store_true", help=rows)
    parser.add_argument("--no-pictures", action="store_true", help="no NAME_classes.png")
    parser.add_argument("--pixel", metavar="X,Y", type=pixel, help="draw its similarity map")
    parser.add_argument("--click", action="store_true", help="show a window where a click draws the similarity map")


def _run(options: argparse.Namespace) -> int:
    from fastpixcon.training.writing import Outputs

    files = Outputs("--out", options.overwrite, [*model_files([options.model]), *options.image])
    planned = [] if options.click else _plan(options, files)
    import numpy as np
    from PIL import Image

    from fastpixcon.training import job
    from fastpixcon.training.console import Ticks, make_console, say
    from fastpixcon.training.data import dataset_ids
    from fastpixcon.training.figures import Shown, attempt
    from fastpixcon.training.figures.own_images import (
        check_images,
        class_map,
        embedding_map,
        enough_memory,
        image_of,
        segmented,
        similar,
        similar_window,
    )

    (trained,) = open_models([options.model])
    check_images(options.image, options.pixel)
    classes = len(trained.classes)
    own = dataset_ids(trained.config.data) if options.ids == "dataset" else range(classes)
    ids_of = np.array(own, np.uint8 if max(own) < 256 else np.uint16)
    device = job.pick_device(options.device)
    shown = Shown(trained.arm, trained.model.to(device), trained.contrasts)
    if options.click:
        for path in options.image:
            similar_window(shown, image_of(path), device)
        return 0
    console, status = make_console(), 0
    if options.embeddings and not trained.contrasts:
        say(console, f"{options.model}: its head is untrained, so embeddings are its decoder's features")
    with Ticks(console, "predict", len(planned)) as ticks:
        for path, names in planned:
            image = image_of(path)
            pictures = {}
            if options.pixel:
                x, y = options.pixel
                pictures["similar.png"] = partial(similar, shown, image, (y, x), device)
            with enough_memory(path, image):
                ids = class_map(shown, image, device)
            picture = Image.fromarray(ids_of[ids.numpy()])
            files.write(names["ids.png"], partial(picture.save, format="PNG"))
            if options.embeddings:
                rows = embedding_map(shown, image, device).numpy()
                files.write(names["embeddings.npy"], partial(np.save, arr=rows))
            if not options.no_pictures:
                pictures["classes.png"] = partial(segmented, image, ids, trained.classes, trained.palette)
            failed = {name: attempt(make, names[name], files.write) for name, make in pictures.items()}
            for name, file in names.items():
                if failed.get(name):
                    complain(failed[name])
                    status = 1
                else:
                    say(console, f"  {file}")
            ticks.count()
    return status


def _plan(options: argparse.Namespace, files: "Outputs") -> list[tuple[Path, dict[str, Path]]]:
    """Every image with its files by kind, none of which is another's."""
    kinds = ["ids.png"]
    kinds += ["embeddings.npy"] if options.embeddings else []
    kinds += [] if options.no_pictures else ["classes.png"]
    kinds += ["similar.png"] if options.pixel else []
    return [
        (path, {kind: files.claim(options.out / f"{path.stem}_{kind}", str(path)) for kind in kinds})
        for path in options.image
    ]
