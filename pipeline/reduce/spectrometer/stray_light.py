"""Light that the spectrometer scatters from all wavelengths onto every pixel.

Each pixel sees its own light t and a share of all light, m = (1 + D) t with a matrix D (Zong,
Brown, Johnson, Lykke and Ohno, Appl. Opt. 45, 1111-1119, 2006). Where stray light is even over the
detector, D is s / n everywhere with the stray light fraction s, so

    m = t + s mean(t),    mean(m) = (1 + s) mean(t),    t = m - s / (1 + s) mean(m),

which is the exact inverse of 1 + D. Reference and spectrum are each corrected with their own mean,
since a sample takes stray light away too.

A saturated pixel enters the mean with its recorded counts, which is closer than leaving it out,
and too low. Light that the detector sees outside its wavelengths is not known of.
"""

from __future__ import annotations


def stray_share(fraction: float) -> float:
    """Stray light over the mean of the measured light."""
    return fraction / (1.0 + fraction)


def stray_share_slope(fraction: float) -> float:
    """Derivative of `stray_share` against the fraction."""
    return 1.0 / (1.0 + fraction) ** 2
