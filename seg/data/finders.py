"""Where images and masks lie in a tree of files: one finder for each layout.

A finder takes a folder or a zip, with any folders around what it looks for,
and gives the pairs of image and masks, and the defects it met. See `layouts`.
"""

import collections
import posixpath
from collections.abc import Callable, Mapping

from seg import images as images_lib
from seg.data import annotations, files, folders, labelme, pairs, split
from seg.data.pairs import Defect, Pair

Found = tuple[list[Pair], list[Defect]]


def _dsb2018(tree: files.Tree) -> Found:
    images = collections.defaultdict(list)
    masks = collections.defaultdict(list)
    for name in filter(files.is_image, tree.names):
        folder, _, kind = name.rpartition("/")[0].rpartition("/")
        if kind in ("images", "masks"):
            (images if kind == "images" else masks)[folder].append(name)
    found, defects = [], []
    ids: dict[str, str] = {}
    for folder in sorted(images.keys() | masks.keys()):
        first = ids.setdefault(folder.rpartition("/")[2], folder)
        if not images[folder]:
            what, remedy = "masks, but no image", "add images/*.png"
        elif len(images[folder]) > 1:
            what = f"{len(images[folder])} images in one folder"
            remedy = "keep one"
        elif not masks[folder] and f"{folder}/masks" not in tree.folders:
            what, remedy = "an image without masks", "add masks/*.png"
        elif first != folder:
            what, remedy = f"the same id as {first}", "rename one of them"
        else:
            name = folder.rpartition("/")[2]
            found.append(
                Pair(name, images[folder][0], tuple(masks[folder]), "objects")
            )
            continue
        defects.append(Defect(folder, what, remedy))
    return found, defects


def _stardist(tree: files.Tree) -> Found:
    found, defects = folders.find(tree)
    names = [pair.id for pair in found]
    for name in sorted(
        k for k, n in collections.Counter(names).items() if n > 1
    ):
        defects.append(
            Defect(name, "in two splits", "remove it from one of them")
        )
    found = [pair._replace(kind="ids") for pair in found]
    if {pair.split for pair in found} == {"train", "test"}:
        halves = split.stardist_split(p.id for p in found if p.split == "train")
        found = [
            p._replace(split=halves[p.id]) if p.split == "train" else p
            for p in found
        ]
    return found, defects


def _folders(tree: files.Tree) -> Found:
    found, defects = folders.find(tree)
    return _distinct(found), defects


def _distinct(found: list[Pair]) -> list[Pair]:
    """With the split in the ids, where two splits have one: train/1, test/1."""
    if len({pair.id for pair in found}) == len(found):
        return found
    return [p._replace(id=f"{p.split}/{p.id}") for p in found]


def _labelme(tree: files.Tree) -> Found:
    found, defects = [], []
    places = {name: folders.place(name) for name in tree.names}
    nearby = _Nearby(places)
    owners: dict[str, str] = {}
    for name in tree.names:
        if not name.lower().endswith(".json"):
            continue
        try:
            annotation = labelme.parse(tree.read(name))
        except (labelme.FormError, images_lib.ImageError) as error:
            defects.append(pairs.defect(name, error))
            owners[nearby.beside(name)] = name
            continue
        path = annotation.image_path.replace("\\", "/")
        image = nearby.image(name, path) or (name if annotation.image else "")
        if not image:
            what = f"its image {path or '(without a name)'} is missing"
            remedy = "put it beside this file, or save it with the image inside"
            defects.append(Defect(name, what, remedy))
        elif owners.setdefault(image, name) != name:
            what = f"of the image {image}, as {owners[image]} is"
            defects.append(Defect(name, what, "keep one of the two"))
        else:
            of = places[image].split or places[name].split
            found.append(Pair("", image, (name,), "labelme", of))
    return _rest(tree, found, defects, owners, places)


def _outlines(tree: files.Tree) -> Found:
    found, defects = [], []
    places = {name: folders.place(name) for name in tree.names}
    nearby = _Nearby(places)
    owners: dict[str, str] = {}
    for name in tree.names:
        if not name.lower().endswith(annotations.OUTLINES):
            continue
        try:
            sources = annotations.outlines(name, tree.read(name))
        except images_lib.ImageError as error:
            defects.append(pairs.defect(name, error))
            owners[nearby.beside(name)] = name
            continue
        for source in sources:
            image = nearby.called(name, source.path or source.image)
            if not image and not source.named:  # ImageJ's RoiSet.zip
                image = nearby.alone(name)
            if source.objects is None:
                what, remedy = "of LabelMe", "give data.layout=labelme"
            elif not image:
                what = f"its image {source.path or source.image} is missing"
                remedy = "put it beside this file"
            elif image in owners:
                what = f"of the image {image}, as {owners[image]} is"
                remedy = "keep one of the two"
            else:
                of = places[image].split or places[name].split
                found.append(Pair("", image, (name,), "outlines", of, source))
                owners[image] = name
                continue
            defects.append(Defect(name, what, remedy))
    return _rest(tree, found, defects, owners, places)


def _rest(
    tree: files.Tree,
    found: list[Pair],
    defects: list[Defect],
    owners: Mapping[str, str],
    places: Mapping[str, folders.Place],
) -> Found:
    """Ids for those found; defects for the images that nothing is of."""
    for name in filter(files.is_image, tree.names):
        if name not in owners:
            what = "an image without annotations"
            remedy = "label it, be it with no shape, or remove it"
            defects.append(Defect(name, what, remedy))
    found = folders.named(found, places)
    defects += folders.same_ids(found)
    return _distinct(found), defects


class _Nearby:
    """Finds the image of an annotation among these files."""

    def __init__(self, places: dict[str, folders.Place]):
        self._places = places
        self._images = {name for name in places if files.is_image(name)}
        self._stems = {posixpath.splitext(n)[0]: n for n in self._images}
        self._here = collections.defaultdict(list)  # by folder
        # by split, None being any, and by name, with the suffix or without
        self._known = collections.defaultdict(list)
        for name in self._images:
            folder, base = posixpath.split(name)
            self._here[folder].append(name)
            for key in (base, annotations.stem_of(base)):
                self._known[places[name].split, key].append(name)
                self._known[None, key].append(name)

    def beside(self, name: str) -> str:
        """The image of the same stem in the same folder, or ""."""
        return self._stems.get(posixpath.splitext(name)[0], "")

    def image(self, name: str, path: str) -> str:
        """The image that file `name` calls `path`, or "".

        As it is written; moved beside the file; of the file's own stem; the
        only one of this name in the same split.
        """
        folder = posixpath.dirname(name)
        for near in (path, posixpath.basename(path)):
            near = posixpath.normpath(posixpath.join(folder, near))
            if near in self._images:
                return near
        same = self._known[self._places[name].split, posixpath.basename(path)]
        return self.beside(name) or (same[0] if len(same) == 1 else "")

    def called(self, name: str, image: str) -> str:
        """The image with a name that file `name` gives, or "".

        Beside the file, with or without its suffix. Else the only one in
        folders so called, as far down as it takes; with this name, or stem; in
        the same split, or anywhere.
        """
        near = posixpath.normpath(
            posixpath.join(posixpath.dirname(name), image)
        )
        stem = annotations.stem_of(near)
        if near in self._images or stem in self._stems:
            return near if near in self._images else self._stems[stem]
        *above, base = image.split("/")
        for k in range(len(above) + 1):
            end = "/".join(["", *above[k:]])
            for known in (base, annotations.stem_of(base)):
                for of in (self._places[name].split, None):
                    same = [
                        other
                        for other in self._known[of, known]
                        if f"/{posixpath.dirname(other)}".endswith(end)
                    ]
                    if len(same) == 1:
                        return same[0]
        return ""

    def alone(self, name: str) -> str:
        """The one image in the folder of file `name`, or ""."""
        here = self._here[posixpath.dirname(name)]
        return here[0] if len(here) == 1 else ""


FINDERS: dict[str, Callable[[files.Tree], Found]] = {
    "dsb2018": _dsb2018,
    "stardist": _stardist,
    "folders": _folders,
    "labelme": _labelme,
    "outlines": _outlines,
}
