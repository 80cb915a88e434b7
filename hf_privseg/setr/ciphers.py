"""The key families: linear maps on blocks of pixels, and the matching maps on the embedding's weight.

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
    EmbeddingCipher           not square        no         for a model whose owner makes a `ClientEmbedding`

All of them protect visually and none is encryption in the cryptographic sense: one key serves every block of every
image, and each class says what that costs. For every family alike, a public embedding E gives the image away.
"""

import re
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from .arrays import is_tensor, like, to_array
from .block_cipher import BlockCipher, DenseCipher
from .client_embedding import ClientEmbedding
from .counts import counted
from .encryption_key import EncryptionKey, as_encryption_key
from .errors import EncryptionStateError, InvalidKeyError, KeyMismatchError
from .keys import SecretKey
from .public_facts import add_family, remove_family

if TYPE_CHECKING:
    import torch

_Cipher = TypeVar("_Cipher", bound=BlockCipher)

_CONDITION = 10.0  # of the matrix family's E_enc, exactly
_MAX_CONDITION = 100.0  # of a matrix that the user supplies
_CACHED_BYTES = 1 << 13  # of the pixels of one row within a block, of all blocks that are permuted at once
_SAME_EMBEDDING = 1e-5  # relative; float32 rounds to 1e-7, and a training step of any use moves further


class PermutationCipher(BlockCipher):
    """Reorder the L pixels of every block: b_hat[i] = b[l(i)], W_hat[:, i] = W[:, l(i)] (section 3.2.2, l = l_enc).

    Everything is bit-exact in every dtype, and so is the integer form: a permutation commutes with normalisation.

    Key space: L! orders (768! for 16 x 16 x 3), of which a 256-bit key reaches at most 2**256.

    What bounds it instead: neighbouring pixels resemble each other, and all blocks share the order. An attacker
    matches the covariance of the blocks, and of neighbouring blocks, with that of other images
    (`attacks/permutation.py`, CamVid frames of 480 x 352). From ONE ciphertext this finds the place of every pixel if
    the images show similar scenes, and 92 % of the places (99 % within a pixel) if they are unrelated; the order of
    the colours may be exchanged. From 16 ciphertexts and similar scenes the key is exact. One known plain image
    reveals it, and so do two chosen blocks. A public checkpoint near the model reveals it from the encrypted weight
    alone.
    """

    family: ClassVar[str] = "permutation"
    summary: ClassVar[str] = "reorders pixels, and the image stays recognisable"
    acts_on_uint8: ClassVar[bool] = True

    def _derive(self, key: SecretKey) -> None:
        self._order = key.permutation(self.block_length)
        self._inverse_order = self._order.argsort()

    def _encrypt_blocks(self, rows: Any) -> Any:
        return _reorder(rows, self._order)

    def _decrypt_blocks(self, rows: Any) -> Any:
        return _reorder(rows, self._inverse_order)

    def _encrypt_array(self, pixels: np.ndarray) -> np.ndarray:
        return self._moved(pixels, self._inverse_order)

    def _decrypt_array(self, pixels: np.ndarray) -> np.ndarray:
        return self._moved(pixels, self._order)

    def _moved(self, pixels: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Pixel i of every block to its place places[i], for so many rows of blocks at once as the cache holds.

        They are laid side by side first, so that a place of all their blocks is one run of memory with one stride.
        """
        side, channels, width = self.patch_size, self.num_channels, pixels.shape[-1]
        images = pixels.reshape(-1, channels, pixels.shape[-2] // side, side, width).swapaxes(2, 3)
        moved = np.empty_like(pixels, order="C")
        targets = moved.reshape(-1, channels, pixels.shape[-2] // side, side, width).swapaxes(2, 3)
        rows_and_columns = np.unravel_index(places.reshape(-1, side), (channels * side, side))
        step = max(1, _CACHED_BYTES // (width * pixels.itemsize))
        for image, target in zip(images, targets, strict=True):
            for first in range(0, image.shape[2], step):
                part = np.ascontiguousarray(image[:, :, first : first + step])
                source = part.reshape(channels * side, -1, side)
                placed = np.empty_like(source)
                placed.swapaxes(1, 2)[rows_and_columns] = source.swapaxes(1, 2)
                target[:, :, first : first + step] = placed.reshape(part.shape)
        return moved

    # P^-T = P: a weight's rows move exactly as the pixels do
    encrypt_rows = _encrypt_blocks
    decrypt_rows = _decrypt_blocks


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
    summary: ClassVar[str] = "reorders pixels and inverts half of them, and the image stays recognisable"
    acts_on_uint8: ClassVar[bool] = True

    def _derive(self, key: SecretKey) -> None:
        super()._derive(key)
        self._signs = key.signs(self.block_length)

    def _encrypt_blocks(self, rows: Any) -> Any:
        return _negate(_reorder(rows, self._order), self._signs)

    def _decrypt_blocks(self, rows: Any) -> Any:
        return _reorder(_negate(rows, self._signs), self._inverse_order)

    def _encrypt_array(self, pixels: np.ndarray) -> np.ndarray:
        return self._negated(super()._encrypt_array(pixels))

    def _decrypt_array(self, pixels: np.ndarray) -> np.ndarray:
        return super()._decrypt_array(self._negated(pixels))

    def _negated(self, pixels: np.ndarray) -> np.ndarray:
        """The signs on every block, by whole rows of the image."""
        side, channels, width = self.patch_size, self.num_channels, pixels.shape[-1]
        signs = np.tile(self._signs.reshape(channels, 1, side, side), width // side)
        rows = pixels.reshape(-1, channels, pixels.shape[-2] // side, side, width)
        return _negate(rows, signs).reshape(pixels.shape)

    encrypt_rows = _encrypt_blocks
    decrypt_rows = _decrypt_blocks


class OrthogonalCipher(DenseCipher):
    """Rotate every block: b_hat = b Q^T, W_hat = W Q^T with Q orthogonal, Haar (uniformly) distributed. The default.

    Exact up to rounding (a float32 weight comes back within a relative 2.4e-8, without growth over 100 round trips).
    A rotation does not commute with normalisation, so there is no uint8 form; values may reach sqrt(L).

    Key space: all rotations of R^L, of which a 256-bit key reaches at most 2**256.

    What bounds it instead: lengths and angles survive. The first principal component of one ciphertext is the
    thumbnail of the image, one grey level a block. An attacker turns the principal components until blocks and their
    neighbours vary together as those of other images do (`attacks/orthogonal.py`, CamVid frames of 480 x 352). From
    one ciphertext this shows recognisable objects (high-pass correlation .35 with images of similar scenes, .22 with
    unrelated ones; block means alone score .04), and from 16 most of the image (.65; .34). With the segmentation maps,
    which the provider computes, four are as good. One known plain image decodes other images at more than 50 dB, two
    do so exactly.
    """

    family: ClassVar[str] = "orthogonal"
    summary: ClassVar[str] = "rotates each block"

    def _derive(self, key: SecretKey) -> None:
        matrix = key.haar(self.block_length)
        self._set_matrix(matrix, matrix.T)


class MatrixCipher(DenseCipher):
    """Multiply every block by a general matrix: E_enc = Q1 diag(s) Q2, the paper's general case (section 3.2.1).

    Q1 and Q2 are Haar distributed (purposes "q1" and "q2" of the key); s_i = 10 ** (1/2 - i / (L - 1)), so that the
    condition is exactly 10, log s is evenly spread and the geometric mean of s is 1. Exact up to rounding, which grows
    with the condition: hence the limits.

    Key space: all matrices of that form, of which a 256-bit key reaches at most 2**256.

    What bounds it instead: the attacks on `OrthogonalCipher`, for which this matrix is near enough to a rotation;
    conditioning adds no protection worth the name. Even a dense Gaussian matrix, which keeps no angles, shows the
    thumbnail. One known plain image decodes others at about 50 dB, one chosen image exactly.
    """

    family: ClassVar[str] = "matrix"
    summary: ClassVar[str] = "the paper's general case"

    def _derive(self, key: SecretKey) -> None:
        q1, q2 = (key.haar(self.block_length, purpose) for purpose in ("q1", "q2"))
        spread = _CONDITION ** np.linspace(0.5, -0.5, self.block_length)
        self._set_matrix((q1 * spread) @ q2, (q2.T / spread) @ q1.T)

    @classmethod
    def from_matrix(
        cls, matrix: "torch.Tensor | np.ndarray", *, patch_size: int, num_channels: int = 3
    ) -> "MatrixCipher":
        """(L, L) E_enc of condition at most 100 -> cipher without a fingerprint.

        Raises:
            InvalidKeyError: wrong shape, entries that are not finite, or a condition above 100; never shows entries.
        """
        cipher = cls.__new__(cls)
        cipher._set_geometry(patch_size, num_channels)
        cipher.fingerprint = None
        length = cipher.block_length
        e_enc = np.array(to_array(matrix) if is_tensor(matrix) else matrix, np.float64)
        if e_enc.shape != (length, length):
            raise InvalidKeyError(
                f"expected a square matrix of shape ({length}, {length}) for patch size {patch_size} and "
                f"{counted(num_channels, 'channel')}, got shape {e_enc.shape}"
            )
        if not np.isfinite(e_enc).all():
            raise InvalidKeyError("expected a matrix of finite numbers, got infinite ones or NaN")
        condition = float(np.linalg.cond(e_enc))
        if not condition <= _MAX_CONDITION:
            raise InvalidKeyError(
                f"expected a matrix of condition at most {_MAX_CONDITION:g}, got {condition:.3g}: rounding would no "
                "longer cancel in the model; use a better conditioned matrix (an orthogonal one has condition 1)"
            )
        cipher._set_matrix(e_enc, np.linalg.inv(e_enc))
        return cipher


class EmbeddingCipher(DenseCipher):
    """Send r numbers a block: b_hat = [b A, 0], W_hat = [W A^+T, 0], with A (L, r) of a `ClientEmbedding`.

    With a transform code T, A T takes the place of A, and T^-1 A^+ that of A^+.

    A^+ is the pseudo-inverse of A; r is the rank of the model's patch embedding E, and A A^+ E = E. The zeros fill a
    block to its L numbers, so that image and weight keep their shapes. Exact up to rounding, and well conditioned
    whatever E is, as the rows of A^+ E are orthonormal. What b A shows, and what bounds it: `ClientEmbedding`.

    Key space: all rotations of R^r, beside E itself.
    """

    family: ClassVar[str] = "embedding"
    summary: ClassVar[str] = "what the model's patch embedding sees of a block, rotated"
    ends_in_zeros: ClassVar[bool] = True

    def _derive(self, key: ClientEmbedding) -> None:
        ours, theirs = (self.patch_size, self.num_channels), (key.patch_size, key.num_channels)
        if ours != theirs:
            raise KeyMismatchError(
                f"the client embedding of fingerprint {key.fingerprint} is for patches of {theirs[0]} pixels and "
                f"{counted(theirs[1], 'channel')}, got patches of {ours[0]} and {counted(ours[1], 'channel')}; use it "
                "with the model, and the processor of the model, that it was made from"
            )
        self._padding = self.block_length - key.shape[1]
        self._uncoded, inverse = key.matrix, np.linalg.pinv(key.matrix)
        if key.code is None:
            self._set_matrix(inverse, key.matrix)
        else:
            transform = key.code.transform
            self._set_matrix(np.linalg.solve(transform, inverse), key.matrix @ transform)

    def _encrypt_blocks(self, rows: Any) -> Any:
        return _padded(super()._encrypt_blocks(rows), self._padding)

    def _decrypt_blocks(self, rows: Any) -> Any:
        raise EncryptionStateError(
            f"an image encrypted with a client embedding is not decrypted: of the {self.block_length} numbers of a "
            f"block it holds {self.block_length - self._padding}, what the model sees of it; keep the plain image"
        )

    def encrypt_rows(self, rows: np.ndarray) -> np.ndarray:
        plain, encrypted = rows.astype(np.float64), super().encrypt_rows(rows)
        is_in_span = _nearly_equal(encrypted @ self._inverse.T, plain)  # always so where r = L
        has_orthonormal_rows = _nearly_equal(self._uncoded @ self._uncoded.T, plain.T @ plain)  # those of A^+ E
        if not (is_in_span and has_orthonormal_rows):
            raise KeyMismatchError(
                f"the client embedding of fingerprint {self.fingerprint} was made from another patch embedding than "
                "this model's, and would change it; make one from this model: ClientEmbedding.generate(model)"
            )
        return _padded(encrypted, self._padding)

    def decrypt_rows(self, rows: np.ndarray) -> np.ndarray:
        return super().decrypt_rows(rows[:, : self.block_length - self._padding])


CIPHERS: dict[str, type[BlockCipher]] = {
    cipher.family: cipher
    for cipher in (PermutationCipher, SignedPermutationCipher, OrthogonalCipher, MatrixCipher, EmbeddingCipher)
}


def register_cipher(cipher: type[_Cipher]) -> type[_Cipher]:
    """Add a key family of one's own, in this process: the class of its cipher -> the same class, for a decorator.

    Keys, processors, models and the audit then take its name as they take those of this package. Every process that
    handles such a key or a model encrypted with one registers it; nothing of it travels with a checkpoint.

    Args:
        cipher: a subclass of `DenseCipher` or `BlockCipher` with the class attribute `family`.

    Raises:
        TypeError: no such class.
        ValueError: the name has another form or is taken, or the cipher does not do what a cipher must: a weight is
            encrypted so that encrypted blocks give what plain ones did, and decryption gives the image back.
    """
    if not (isinstance(cipher, type) and issubclass(cipher, BlockCipher)):
        raise TypeError(f"expected a subclass of DenseCipher or BlockCipher, got {cipher!r:.80}")
    family = getattr(cipher, "family", None)
    if not isinstance(family, str) or not re.fullmatch("[a-z][a-z0-9_]{0,19}", family):
        raise ValueError(
            f"the attribute family of {cipher.__name__} is a name of 1 to 20 letters a-z, digits and _, got "
            f"{family!r:.60}"
        )
    known = CIPHERS.get(family)
    if known is not None and (known.__module__, known.__qualname__) != (cipher.__module__, cipher.__qualname__):
        raise ValueError(f"the family {family!r} is that of {known.__name__}; choose another name")
    add_family(family)  # or there would be no key to prove the cipher with
    try:
        _check_cipher(cipher)
    except Exception:
        if known is None:
            remove_family(family)
        raise
    CIPHERS[family] = cipher
    return cipher


def _check_cipher(cipher: type[BlockCipher]) -> None:
    """Raise ValueError where a cipher does not cancel in a patch embedding, or is not undone."""
    made = cipher(SecretKey.generate(cipher.family), patch_size=4)
    rng = np.random.default_rng(0)
    rows, embedding = (rng.uniform(-1, 1, (64, made.block_length)) for _ in range(2))
    levels = rng.integers(0, 256, (made.num_channels, 12, 20), np.uint8)
    image = levels / 127.5 - 1
    checks = [
        (made._encrypt_blocks(rows) @ made.encrypt_rows(embedding).T, rows @ embedding.T, "b_hat E_hat = b E"),
        (made.decrypt_rows(made.encrypt_rows(embedding)), embedding, "decrypt_rows(encrypt_rows(W)) = W"),
        (made.decrypt(made.encrypt(image)), image, "decrypt(encrypt(image)) = image"),
    ]
    if cipher.acts_on_uint8:
        found = made.encrypt(levels) / 127.5 - 1
        checks.append((found, made.encrypt(image), "encrypt(levels) / 127.5 - 1 = encrypt(levels / 127.5 - 1)"))
    for found, expected, what in checks:
        if found.shape != expected.shape or not _nearly_equal(found, expected):
            raise ValueError(
                f"{cipher.__name__} is no cipher of a patch embedding: {what} does not hold up to rounding"
            )


def cipher_for(secret_key: EncryptionKey | bytes, *, patch_size: int, num_channels: int = 3) -> BlockCipher:
    """Key and the geometry of the patch embedding -> the cipher of the key's family, made once for each key."""
    key = as_encryption_key(secret_key)
    cipher = CIPHERS[key.family]
    return key.remember(
        (cipher, patch_size, num_channels), lambda: cipher(key, patch_size=patch_size, num_channels=num_channels)
    )


def _nearly_equal(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.linalg.norm(found - expected) <= _SAME_EMBEDDING * np.linalg.norm(expected))


def _reorder(rows: Any, order: np.ndarray) -> Any:
    """(n, L), (L,) -> (n, L): column i is rows[:, order[i]]."""
    return np.take(rows, order, axis=1) if isinstance(rows, np.ndarray) else rows[:, like(order, rows)]


def _negate(rows: Any, signs: np.ndarray) -> Any:
    """(..., L), (L,) of +-1 -> (..., L): -u where the sign is -1, and 255 - v for uint8."""
    if str(rows.dtype).removeprefix("torch.") == "uint8":
        return rows ^ like((signs < 0).astype(np.uint8) * np.uint8(255), rows)
    return rows * like(signs, rows)


def _padded(rows: Any, num_zeros: int) -> Any:
    """(n, r) -> (n, r + num_zeros), zeros at the end of each row."""
    if isinstance(rows, np.ndarray):
        return np.pad(rows, ((0, 0), (0, num_zeros)))
    from torch.nn.functional import pad

    return pad(rows, (0, num_zeros))
