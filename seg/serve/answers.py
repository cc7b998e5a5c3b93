"""What the routes give, as OpenAPI describes it."""

import math
from typing import Any, Literal

import pydantic
from pydantic import Field

from seg import config as config_lib
from seg.serve import choices, downloads, store, uploads, views

Separate = Literal["components", "watershed", "learned"]


class Error(pydantic.BaseModel):
    """What cannot be done, in a sentence for people."""

    error: str = Field(description="What is wrong, and the remedy.")
    choose: dict[str, int] | None = Field(
        None,
        description="For a stack: the axes to choose a plane of, and how many "
        "each has; repeat the request with select=Z=0, say.",
    )


class Knobs(pydantic.BaseModel):
    """Settings of what follows the network."""

    threshold: float = Field(
        description="Foreground probability, for models of one class."
    )
    min_area: list[int] = Field(
        description="Least area of an object, px: one value, or one a class."
    )
    min_probability: float = Field(
        description="Least probability of an object, as the table has it."
    )
    separate: Separate = Field(description="How touching objects are parted.")
    fill_holes: bool
    drop_border: bool = Field(
        description="Objects that touch the image's border are left out."
    )


class Model(pydantic.BaseModel):
    """A model that can be chosen."""

    name: str
    classes: list[str] = Field(description="Background first.")
    channels: int = Field(description="1 grey, 3 colour; images are converted.")
    has_threshold: bool = Field(
        description="Whether the threshold matters: with one class."
    )
    separations: list[Separate]
    pixel_size: float = Field(
        description="Of the training, micrometres; 0 = not known. Where it is, "
        "the network sees an image of known size at that."
    )
    settings: Knobs = Field(description="Those of the model.")


class Format(pydantic.BaseModel):
    """A kind of file that results can be downloaded as."""

    name: str
    title: str
    description: str


class About(pydantic.BaseModel):
    """What this server can do."""

    version: str
    models: list[Model]
    formats: list[Format]
    max_bytes: int = Field(description="Of an uploaded file.")
    max_pixels: int = Field(description="Of an image, rows by columns.")


class Object(pydantic.BaseModel):
    """An object of an image; px, (row, column) from the upper left.

    With all other columns of the table of objects.
    """

    model_config = pydantic.ConfigDict(extra="allow")

    label: int = Field(description="Its number, the id in the label image.")
    class_: str = Field(alias="class", description="Name of its class.")
    area_px: int
    row: float = Field(description="Of its centroid.")
    col: float
    bbox_row0: int = Field(description="Its box is half open: row0 <= row.")
    bbox_col0: int
    bbox_row1: int
    bbox_col1: int
    mean_intensity: float | None = Field(description="As in the file.")
    eccentricity: float | None = Field(description="0 round, to 1 a line.")
    solidity: float | None = Field(description="Share of its convex hull.")
    probability: float | None = Field(description="Of being right.")


class Found(pydantic.BaseModel):
    """What was found in an image."""

    id: str = Field(description="Of the image, for further requests.")
    name: str
    model: str
    height: int = Field(description="Rows of the image, px.")
    width: int
    step: int = Field(
        description="Rows and columns of the image for one of the view that "
        "image.png and labels give."
    )
    view_height: int
    view_width: int
    pixel_size: tuple[float, float] | None = Field(
        description="(row, column), micrometres; null = not known."
    )
    pixel_size_given: bool = Field(
        description="It is the request's, as the file has none."
    )
    settings: Knobs
    count: int
    median_area_px: float | None
    covered: float = Field(description="Share of the image in objects.")
    objects: list[Object]


def knobs(predict: config_lib.Predict) -> Knobs:
    """The settings of prediction that can be changed here."""
    return Knobs.model_validate(
        {field: getattr(predict, field) for field in Knobs.model_fields},
        from_attributes=True,
    )


def model(choice: choices.Choice) -> Model:
    """A model, described."""
    config = choice.config
    learned = config.model.objects != "none"
    predict = config.predict
    settings = knobs(predict)
    if settings.separate == "learned" and not learned:
        settings.separate = "components"  # what is taken then
    return Model(
        name=choice.name,
        classes=list(config.classes),
        channels=config.model.in_channels,
        has_threshold=config.model.n_classes == 1,
        pixel_size=config.data.pixel_size,
        separations=["components", "watershed"] + ["learned"] * learned,
        settings=settings,
    )


def formats() -> list[Format]:
    """The formats that can be downloaded."""
    return [
        Format(
            name=name,
            title=downloads.TITLES[name][0],
            description=downloads.TITLES[name][1],
        )
        for name in downloads.available()
    ]


def about(
    version: str, offered: dict[str, choices.Choice], max_bytes: int
) -> About:
    """What this server can do."""
    return About(
        version=version,
        models=list(map(model, offered.values())),
        formats=formats(),
        max_bytes=max_bytes,
        max_pixels=uploads.MAX_PIXELS,
    )


def found(
    stored: store.Stored, segmentation: Any, predict: config_lib.Predict
) -> Found:
    """What was found in an image by these settings."""
    rows = segmentation.table
    shape = stored.pixels.shape
    areas = sorted(row["area_px"] for row in rows)
    view = views.shape(shape)
    return Found(
        id=stored.id,
        name=stored.name,
        model=stored.choice.name,
        height=shape[0],
        width=shape[1],
        step=views.step(shape),
        view_height=view[0],
        view_width=view[1],
        pixel_size=segmentation.pixel_size,
        pixel_size_given=bool(
            segmentation.pixel_size and not stored.pixel_size
        ),
        settings=knobs(predict),
        count=len(rows),
        median_area_px=_median(areas),
        covered=sum(areas) / (shape[0] * shape[1]),
        objects=[
            Object.model_validate(
                {k: _finite(v) for k, v in row.items() if k != "image"}
            )
            for row in rows
        ],
    )


def _median(values: list[int]) -> float | None:
    n = len(values)
    return (values[n // 2] + values[(n - 1) // 2]) / 2 if n else None


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
