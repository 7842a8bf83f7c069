"""Draw the pictures in examples/images: shapes of a seed that no dataset uses, in camera-like sizes."""

from pathlib import Path

from PIL import Image

from tinysight.data.drawing import CLASS_NAMES, draw, plan

FOLDER = Path(__file__).parent / "images"


def main() -> None:
    """Draw six scenes, each larger than the models' 64 pixels and not square, named after what they show."""
    sizes = [(160, 120), (120, 160), (200, 128), (128, 128), (180, 140), (96, 150)]
    for index, (width, height) in enumerate(sizes):
        scene = plan(2017, "test", 7 + 4 * index, image_size=min(width, height))
        square = Image.fromarray(draw(scene))
        canvas = square.resize((1, 1)).resize((width, height))
        canvas.paste(square, ((width - square.width) // 2, (height - square.height) // 2))
        canvas.save(FOLDER / f"{CLASS_NAMES[scene.label].replace(' ', '-')}.png", optimize=True)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    main()
