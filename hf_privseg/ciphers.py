"""The cipher families: invertible linear maps on blocks of pixels, and the matching maps on the embedding's weight.

A block is the L = channels * patch_size**2 pixels of one patch, flattened (channel, row, column) as the weight of the
patch embedding is. With the paper's matrix E_enc of shape (L, L), the embedding E of shape (L, hidden_size) and row
vectors b of centred pixels in [-1, 1] (Kiya et al., J. Imaging 2022, 8(9), 233, sections 3.2.1 and 3.2.3):

    encrypt         b_hat = b E_enc^-1
    encrypt_weight  E_hat = E_enc E                 so that b_hat E_hat = b E; the bias never changes

A weight is stored as (hidden_size, channels, patch_size, patch_size): W = E^T, hence W_hat = W E_enc^T.

    cipher                    E_enc             acts on uint8
    PermutationCipher         P                 yes
    SignedPermutationCipher   S P               yes
    OrthogonalCipher          Q                 no         the default
    MatrixCipher              Q1 diag(s) Q2     no

All of them protect visually and none is encryption in the cryptographic sense: one key serves every block of every
image, and each class says what that costs. For every family alike, a public embedding E gives the image away.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NoReturn

import numpy as np
import torch

from .errors import InvalidImageError, InvalidKeyError, KeyMismatchError
from .keys import SecretKey, as_key

_CONDITION = 10.0  # of the matrix family's E_enc, exactly
_MAX_CONDITION = 100.0  # of a matrix that the user supplies


class BlockCipher(ABC):
    """One invertible linear map on the blocks of an image, and its counterpart on the embedding's weight.

    Attributes:
        family: the name that keys carry.
        acts_on_uint8: whether `encrypt` takes 8-bit pixels as well, with a result bit-equal to the float form's.
        patch_size: height and width of a block in pixels.
        num_channels: channels of the image.
        block_length: L = num_channels * patch_size**2.
        fingerprint: that of the key; None for a matrix that the user supplied.
    """

    family: ClassVar[str]
    acts_on_uint8: ClassVar[bool]
    fingerprint: str | None

    def __init__(self, secret_key: SecretKey | bytes, *, patch_size: int, num_channels: int = 3) -> None:
        """Key of this family and the geometry of the patch embedding -> cipher.

        Raises:
            InvalidKeyError: `secret_key` is no key.
            KeyMismatchError: the key is bound to another family.
        """
        key = as_key(secret_key)
        if key.family != self.family:
            raise KeyMismatchError(
                f"{type(self).__name__} needs a key of family {self.family!r}, got one of family {key.family!r}; "
                "cipher_for(secret_key, ...) chooses the class that fits the key"
            )
        self._set_geometry(patch_size, num_channels)
        self.fingerprint = key.fingerprint
        self._derive(key)

    def encrypt(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., channels, height, width) float in [-1, 1], or uint8 where it acts on that -> same shape and dtype.

        Args:
            pixels: on any device; height and width are multiples of the patch size. Half precision is computed in
                float32 and rounded once.

        Raises:
            InvalidImageError: size, channels or dtype do not fit.
        """
        return self._on_blocks(pixels, self._encrypt_blocks)

    def decrypt(self, pixels: torch.Tensor) -> torch.Tensor:
        """The inverse of `encrypt`: (..., channels, height, width) ciphertext -> same shape and dtype."""
        return self._on_blocks(pixels, self._decrypt_blocks)

    def encrypt_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """(hidden_size, channels, patch_size, patch_size) float -> same shape, dtype and device (eq. 3).

        Raises:
            ValueError: the weight's shape is not that of the geometry, or it is no float tensor.
        """
        return self._on_rows(weight, self._encrypt_rows)

    def decrypt_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """The inverse of `encrypt_weight`: same shape, dtype and device."""
        return self._on_rows(weight, self._decrypt_rows)

    @abstractmethod
    def _derive(self, key: SecretKey) -> None:
        """Keep what the maps need."""

    @abstractmethod
    def _encrypt_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, L) -> (n, L), same dtype and device: b E_enc^-1."""

    @abstractmethod
    def _decrypt_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, L) -> (n, L), same dtype and device: b_hat E_enc."""

    @abstractmethod
    def _encrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """(hidden_size, L) on the CPU -> the same shape: W E_enc^T."""

    @abstractmethod
    def _decrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """(hidden_size, L) on the CPU -> the same shape: W_hat E_enc^-T."""

    def _set_geometry(self, patch_size: int, num_channels: int) -> None:
        for name, value in (("patch_size", patch_size), ("num_channels", num_channels)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is an int >= 1, got {value!r}")
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.block_length = num_channels * patch_size**2

    def _on_blocks(self, pixels: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Cut the pixels into rows of one block each, act on the rows, put the blocks back in place."""
        self._check_pixels(pixels)
        channels, height, width = pixels.shape[-3:]
        size = self.patch_size
        batch, down, across = pixels.shape[:-3].numel(), height // size, width // size
        blocks = pixels.reshape(batch, channels, down, size, across, size).permute(0, 2, 4, 1, 3, 5)
        acted = act(blocks.reshape(batch * down * across, self.block_length))
        return acted.reshape(blocks.shape).permute(0, 3, 1, 4, 2, 5).reshape(pixels.shape)

    def _on_rows(self, weight: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        expected = (self.num_channels, self.patch_size, self.patch_size)
        if weight.ndim != 4 or weight.shape[1:] != expected or not weight.is_floating_point():
            raise ValueError(
                f"expected a float weight of shape (hidden_size, {', '.join(map(str, expected))}), "
                f"got {weight.dtype} of shape {tuple(weight.shape)}; make the cipher with the model's own "
                "patch_size and num_channels"
            )
        rows = weight.detach().cpu().reshape(len(weight), self.block_length)
        return act(rows).reshape(weight.shape).to(weight)

    def _check_pixels(self, pixels: torch.Tensor) -> None:
        if not isinstance(pixels, torch.Tensor):
            raise InvalidImageError(f"expected a torch.Tensor of pixels, got {type(pixels).__name__}")
        if pixels.ndim < 3 or pixels.shape[-3] != self.num_channels:
            raise InvalidImageError(
                f"expected pixels of shape (..., {self.num_channels}, height, width), got {tuple(pixels.shape)}"
            )
        height, width = pixels.shape[-2:]
        if height % self.patch_size or width % self.patch_size or not height * width:
            nearest = " x ".join(str(max(1, round(n / self.patch_size)) * self.patch_size) for n in (height, width))
            raise InvalidImageError(
                f"height x width must be multiples of the patch size {self.patch_size}, got {height} x {width}; "
                f"the nearest is {nearest}: resize or pad the plain image, never a ciphertext"
            )
        if not (pixels.is_floating_point() or (self.acts_on_uint8 and pixels.dtype == torch.uint8)):
            expected = "float pixels in [-1, 1]" + (" or uint8" if self.acts_on_uint8 else " (uint8 / 127.5 - 1)")
            raise InvalidImageError(f"the {self.family} cipher takes {expected}, got {pixels.dtype}")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(patch_size={self.patch_size}, num_channels={self.num_channels}, "
            f"fingerprint={self.fingerprint!r})"
        )

    def __getstate__(self) -> NoReturn:
        """Refuse pickle, copy and deepcopy: a cipher holds its key in another form."""
        raise TypeError(
            "a cipher is neither pickled nor copied, for it holds the secret; pass the path of a key file, "
            "read it with SecretKey.from_file where it is used and call cipher_for there"
        )


class PermutationCipher(BlockCipher):
    """Reorder the L pixels of every block: b_hat[i] = b[l(i)], W_hat[:, i] = W[:, l(i)] (section 3.2.2, l = l_enc).

    Everything is bit-exact in every dtype, and so is the integer form: a permutation commutes with normalisation.

    Key space: L! orders (768! for 16 x 16 x 3), of which a 256-bit key reaches at most 2**256.

    What bounds it instead: neighbouring pixels resemble each other, and all blocks share the order. Matching the
    covariance of the blocks and of neighbouring blocks with those of any photographs (ciphertext only, CamVid frames
    of 480 x 352) puts 92 % of the positions within one pixel from one image if the photographs show similar scenes and
    53 % if they are unrelated; from 16 images every position is exact with similar scenes, 66 % with unrelated ones
    (100 % within one pixel). One known plain image reveals the order; two chosen blocks do. A public checkpoint near
    the model reveals it from the encrypted weight alone.
    """

    family: ClassVar[str] = "permutation"
    acts_on_uint8: ClassVar[bool] = True

    def _derive(self, key: SecretKey) -> None:
        self._order = torch.from_numpy(key.permutation(self.block_length).copy())
        self._inverse_order = self._order.argsort()

    def _encrypt_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        return _reorder(rows, self._order)

    def _decrypt_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        return _reorder(rows, self._inverse_order)

    # P^-T = P: a weight's rows move exactly as the pixels do
    _encrypt_rows = _encrypt_blocks
    _decrypt_rows = _decrypt_blocks


class SignedPermutationCipher(PermutationCipher):
    """Reorder the pixels of every block, then turn about half of them negative: b_hat[i] = s[i] b[l(i)].

    A sign of -1 is 255 - v on uint8 pixels and -u on centred ones: the negative / positive transformation.
    Everything is bit-exact in every dtype. The uint8 form is bit-equal to the float form under the fused
    (v - 127.5) / 127.5; other ways to centre differ from it by up to 2e-7.

    Key space: L! 2**L (768! 2**768 for 16 x 16 x 3), of which a 256-bit key reaches at most 2**256.

    What bounds it instead: the attacks on `PermutationCipher`, with the same figures. The leading eigenvector of the
    ciphertext's correlation matrix gives all signs first, up to one global sign.
    """

    family: ClassVar[str] = "signed_permutation"
    acts_on_uint8: ClassVar[bool] = True

    def _derive(self, key: SecretKey) -> None:
        super()._derive(key)
        self._signs = torch.from_numpy(key.signs(self.block_length).copy())

    def _encrypt_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        return _negate(_reorder(rows, self._order), self._signs)

    def _decrypt_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        return _reorder(_negate(rows, self._signs), self._inverse_order)

    _encrypt_rows = _encrypt_blocks
    _decrypt_rows = _decrypt_blocks


class _DenseCipher(BlockCipher):
    """A dense E_enc, held with its inverse in float64 on the CPU; pixels meet it cast to their own precision."""

    acts_on_uint8: ClassVar[bool] = False

    def _set_matrix(self, matrix: torch.Tensor, inverse: torch.Tensor) -> None:
        self._matrix, self._inverse = matrix, inverse
        self._casts: dict[tuple[bool, torch.device, torch.dtype], torch.Tensor] = {}

    def _encrypt_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        return self._multiply(rows, inverse=True)

    def _decrypt_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        return self._multiply(rows, inverse=False)

    def _encrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.double() @ self._matrix.T

    def _decrypt_rows(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.double() @ self._inverse.T

    def _multiply(self, rows: torch.Tensor, inverse: bool) -> torch.Tensor:
        dtype = torch.promote_types(rows.dtype, torch.float32)
        place = (inverse, rows.device, dtype)
        if place not in self._casts:
            self._casts[place] = (self._inverse if inverse else self._matrix).to(rows.device, dtype)
        with torch.autocast(rows.device.type, enabled=False):  # rounding to bf16 here would not cancel
            return (rows.to(dtype) @ self._casts[place]).to(rows.dtype)


class OrthogonalCipher(_DenseCipher):
    """Rotate every block: b_hat = b Q^T, W_hat = W Q^T with Q orthogonal, Haar (uniformly) distributed. The default.

    Exact up to rounding (a float32 weight comes back within a relative 2.4e-8, without growth over 100 round trips).
    A rotation does not commute with normalisation, so there is no uint8 form; values may reach sqrt(L).

    Key space: all rotations of R^L, of which a 256-bit key reaches at most 2**256.

    What bounds it instead: lengths and angles survive. The first principal component of one ciphertext is the
    1/16 thumbnail of the image (correlation 1.00). Aligning the principal axes with those of other images, then
    refining through neighbouring blocks and higher moments, makes objects recognisable from 16 images (high-pass
    correlation .36, and .38 from 64, where a thumbnail alone scores .10; ciphertext only, CamVid frames of 480 x 352).
    One known plain image decodes other images at 52.5 dB, two do so exactly. A public checkpoint near the model
    (relative drift 10 %) decodes them at 31.8 dB.
    """

    family: ClassVar[str] = "orthogonal"

    def _derive(self, key: SecretKey) -> None:
        matrix = torch.from_numpy(key.haar(self.block_length).copy())
        self._set_matrix(matrix, matrix.T)


class MatrixCipher(_DenseCipher):
    """Multiply every block by a general matrix: E_enc = Q1 diag(s) Q2, the paper's general case (section 3.2.1).

    Q1 and Q2 are Haar distributed (purposes "q1" and "q2" of the key); s_i = 10 ** (1/2 - i / (L - 1)), so that the
    condition is exactly 10, log s is evenly spread and the geometric mean of s is 1. Exact up to rounding, which grows
    with the condition: hence the limits.

    Key space: all matrices of that form, of which a 256-bit key reaches at most 2**256.

    What bounds it instead: the attacks on `OrthogonalCipher`; conditioning adds no protection (high-pass correlation
    .35 to .42 for conditions 3 to 100). Even a dense Gaussian matrix, which keeps no angles, shows the thumbnail (the
    first principal component of one ciphertext, correlation .96). One known plain image decodes others at 52.5 dB.
    """

    family: ClassVar[str] = "matrix"

    def _derive(self, key: SecretKey) -> None:
        q1, q2 = (torch.from_numpy(key.haar(self.block_length, purpose).copy()) for purpose in ("q1", "q2"))
        spread = torch.from_numpy(_CONDITION ** np.linspace(0.5, -0.5, self.block_length))
        self._set_matrix((q1 * spread) @ q2, (q2.T / spread) @ q1.T)

    @classmethod
    def from_matrix(
        cls, matrix: torch.Tensor | np.ndarray, *, patch_size: int, num_channels: int = 3
    ) -> "MatrixCipher":
        """(L, L) E_enc of condition at most 100 -> cipher without a fingerprint.

        Raises:
            InvalidKeyError: wrong shape, entries that are not finite, or a condition above 100; never shows entries.
        """
        cipher = cls.__new__(cls)
        cipher._set_geometry(patch_size, num_channels)
        cipher.fingerprint = None
        length = cipher.block_length
        tensor = matrix if isinstance(matrix, torch.Tensor) else torch.from_numpy(np.array(matrix, np.float64))
        e_enc = tensor.detach().to("cpu", torch.float64, copy=True)
        if e_enc.shape != (length, length):
            raise InvalidKeyError(
                f"expected a square matrix of shape ({length}, {length}) for patch size {patch_size} and "
                f"{num_channels} channels, got shape {tuple(e_enc.shape)}"
            )
        if not e_enc.isfinite().all():
            raise InvalidKeyError("expected a matrix of finite numbers, got infinite ones or NaN")
        condition = float(np.linalg.cond(e_enc.numpy()))
        if not condition <= _MAX_CONDITION:
            raise InvalidKeyError(
                f"expected a matrix of condition at most {_MAX_CONDITION:g}, got {condition:.3g}: rounding would no "
                "longer cancel in the model; use a better conditioned matrix (an orthogonal one has condition 1)"
            )
        cipher._set_matrix(e_enc, torch.linalg.inv(e_enc))
        return cipher


CIPHERS: dict[str, type[BlockCipher]] = {
    cipher.family: cipher for cipher in (PermutationCipher, SignedPermutationCipher, OrthogonalCipher, MatrixCipher)
}


def cipher_for(secret_key: SecretKey | bytes, *, patch_size: int, num_channels: int = 3) -> BlockCipher:
    """Key and the geometry of the patch embedding -> the cipher of the key's family, made once for each key object."""
    key = as_key(secret_key)
    cipher = CIPHERS[key.family]
    return key.remember(
        (cipher, patch_size, num_channels), lambda: cipher(key, patch_size=patch_size, num_channels=num_channels)
    )


def _reorder(rows: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """(n, L), (L,) -> (n, L): column i is rows[:, order[i]]. `gather` is several times faster than indexing here."""
    return rows.gather(1, order.to(rows.device).expand(rows.shape))


def _negate(rows: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """(n, L), (L,) of +-1 -> (n, L): -u where the sign is -1, and 255 - v for uint8."""
    signs = signs.to(rows.device)
    if rows.dtype == torch.uint8:
        return rows ^ (signs < 0).to(torch.uint8).mul(255)
    return rows * signs
