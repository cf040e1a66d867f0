import numpy as np
import pytest

from lttune.data import glyph_catalogue as module
from lttune.data.glyph_catalogue import glyph_catalogue, render
from lttune.errors import InputError


def test_a_larger_catalogue_starts_with_a_smaller_one() -> None:
    assert glyph_catalogue(30)[:12] == glyph_catalogue(12)


def test_the_first_glyphs_stay() -> None:
    assert "".join(glyph.character for glyph in glyph_catalogue(8)) == "𝕞Ȝ;ƧῩϰ⡥℃"
    assert glyph_catalogue(8)[1].name == "LATIN CAPITAL LETTER YOGH"


def test_glyphs_are_compact_and_differ() -> None:
    sprites = [render(glyph, 96) for glyph in glyph_catalogue(40)]
    bitmaps = np.array([np.asarray(s.outline.resize((20, 20)), np.float64).ravel() / 255 for s in sprites])
    differences = np.abs(bitmaps[:, None] - bitmaps).mean(axis=2)
    assert differences[~np.eye(40, dtype=bool)].min() > 0.08
    for sprite in sprites:
        assert max(sprite.outline.size) == 96
        assert min(sprite.outline.size) >= 96 / 2.3
        assert np.asarray(sprite.outline).mean() / 255 > 0.25
        assert sprite.fill.size == sprite.outline.size
        assert np.asarray(sprite.fill).sum() < np.asarray(sprite.outline).sum()


def test_too_many_glyphs_are_refused_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # A font that ends after a few glyphs stands for any number beyond the end of the real one.
    few = list(glyph_catalogue(5))
    module._scan.cache_clear()
    monkeypatch.setattr(module, "_candidates", lambda: iter(few))
    with pytest.raises(InputError, match=r"num_categories is 9, but DejaVuSans-Bold\.ttf .* use at most 5"):
        glyph_catalogue(9)
    module._scan.cache_clear()
