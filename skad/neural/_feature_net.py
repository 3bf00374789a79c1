"""Networks that have the scaling of their input as a first step."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import pad

from skad.neural._blocks import ALIGNMENT
from skad.relevance._layers import LayerwiseRelevance

__all__ = ["FeatureNet", "Scaling", "make_module", "output_of"]

_ORDERS = {"rgb": [0, 1, 2], "bgr": [2, 1, 0]}


class Scaling(nn.Module):
    """``(x - mean) / std``, of the channels that a network takes.

    Parameters
    ----------
    mean, std : float or sequence of floats, one a channel, default=0.0 and 1.0
        In the order that the network takes.
    channels : {"rgb", "bgr"} or None, default=None
        Order of the channels that the network takes; they come as RGB. A grey image is
        repeated. None: any input, as it comes.

    Raises
    ------
    ValueError
        If `std` is not positive; when called, for images of another number of channels.

    See Also
    --------
    FeatureNet : A network with such a first step.

    Examples
    --------
    >>> import torch
    >>> from skad.neural import Scaling
    >>> Scaling(mean=1.0, std=2.0)(torch.tensor([[1.0, 5.0]]))
    tensor([[0., 2.]])
    """

    pointwise = True  # for the arithmetic of receptive fields
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        *,
        channels: Literal["rgb", "bgr"] | None = None,
    ):
        super().__init__()
        self.channels = channels
        self.register_buffer("mean", _per_channel(mean))
        self.register_buffer("std", _per_channel(std))
        if not (self.std > 0).all():
            raise ValueError(f"std must be positive, got {std}.")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale rows.

        Parameters
        ----------
        x : tensor of shape (n, ...)
            Rows as they come; of images (n, C, H, W), where there are `channels`.

        Returns
        -------
        scaled : tensor of the shape of x
            With three channels, where there are `channels`.

        Raises
        ------
        ValueError
            For images of another number of channels than 1 or 3, where there are
            `channels`.
        """
        order = self._order(x)
        return ((x if order is None else x[:, order]) - self.mean) / self.std

    def pull_back(self, relevance: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Give relevance of scaled rows back to the channels that they were made of.

        Parameters
        ----------
        relevance : tensor of the shape of ``self(x)``
            Relevance of the scaled rows.
        x : tensor of shape (n, ...)
            The rows before they were scaled.

        Returns
        -------
        relevance : tensor of the shape of x
            A grey image gets the sum over the channels that it stood for.
        """
        order = self._order(x)
        if order is None:
            return relevance
        order = torch.tensor(order, device=relevance.device)
        return torch.zeros_like(x).index_add_(1, order, relevance)

    def _order(self, x):
        """Give the channels of x that the network takes; None for all."""
        if self.channels is None:
            return None
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                "This network takes grey or RGB images, (1, H, W) or (3, H, W); got rows "
                f"of shape {tuple(x.shape[1:])}."
            )
        return _ORDERS[self.channels] if x.shape[1] == 3 else [0, 0, 0]


def _per_channel(values):
    values = torch.as_tensor(values, dtype=torch.float32)
    return values.view(-1, 1, 1) if values.ndim else values


class FeatureNet(nn.Module):
    """A network and the scaling of its input; the output is flattened.

    Parameters
    ----------
    layers : torch.nn.Module
        The network, from scaled rows to a tensor with an entry for each.
    scaling : Scaling or None, default=None
        None leaves the input as it is.
    input_range : tuple of two floats or None, default=None
        Least and greatest value of the images that the network is made for.

    Attributes
    ----------
    validation_accuracy : float or None
        Share of held-out rows that were classified right, where `fit_features` trained
        the network.

    See Also
    --------
    fit_features, load_backbone : Give one.
    skad.DeepOneClass : Takes one as `features`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from skad.neural import FeatureNet, Scaling
    >>> net = FeatureNet(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), Scaling(std=255.0))
    >>> net(torch.zeros(4, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        layers: nn.Module,
        scaling: Scaling | None = None,
        *,
        input_range: tuple[float, float] | None = None,
    ):
        super().__init__()
        self.scaling: Scaling = Scaling() if scaling is None else scaling
        self.layers = layers
        self.input_range = input_range
        self.validation_accuracy: float | None = None

    def __reduce__(self) -> Any:
        # torch pickles addresses. As arrays, equal networks have equal pickles, which
        # joblib.hash relies on, and those of a GPU can be read anywhere.
        parameters = dict(self.named_parameters(remove_duplicate=False))
        buffers = dict(self.named_buffers(remove_duplicate=False))
        memo = {id(tensor): None for tensor in (parameters | buffers).values()}
        state = copy.deepcopy(self.__dict__, memo)
        trained = [name for name, tensor in parameters.items() if tensor.requires_grad]
        arrays = _arrays(parameters), _arrays(buffers)
        # The order of the channels in memory, which the last bits of outputs depend on.
        strides = {k: t.stride() for k, t in parameters.items() if t.ndim == 4}
        return _restored, (type(self), state, *arrays, trained, strides)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the features.

        Parameters
        ----------
        x : tensor of shape (n, ...)
            Rows, unscaled.

        Returns
        -------
        features : tensor of shape (n, D)
            The flattened output of the layers.

        Raises
        ------
        ValueError
            If the layers give no tensor with an entry for each row.
        """
        output = self.layers(_aligned(self.scaling(x)))
        if not isinstance(output, torch.Tensor) or output.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"The network must give a tensor with features of each of {len(x)} rows; "
                f"it gave {_describe(output)}."
            )
        return output.reshape(len(x), -1)

    def explainer(
        self,
        *,
        low: torch.Tensor | None = None,
        high: torch.Tensor | None = None,
        reference: torch.Tensor | None = None,
        **rules: Any,
    ) -> Callable[..., torch.Tensor]:
        """Give what propagates relevance from the features to the input.

        Parameters
        ----------
        low, high : tensor of the shape of a row, or None
            Range of the input, for "zbox".
        reference : tensor of the shape of a row, or None
            What the input is compared with; None is 0 behind the scaling.
        **rules : dict
            As for ``LayerwiseRelevance``.

        Returns
        -------
        explain : callable
            Of rows x and a function `top` from the features to a tensor of shape (n,), as
            for ``LayerwiseRelevance``; gives a tensor of the shape of x.

        Raises
        ------
        TypeError
            If there is a layer that relevance can't be propagated through.
        ValueError
            For bad rules, or a network in training mode.
        """
        if low is not None:
            both: Any = low, high
            low, high = (self.scaling(bound[None])[0] for bound in both)
        if reference is not None:
            rules["reference"] = self.scaling(reference[None])[0]
        through = LayerwiseRelevance(self.layers, low=low, high=high, **rules)

        def explain(x, top):
            relevance = through(self.scaling(x), lambda phi: top(phi.reshape(len(x), -1)))
            return self.scaling.pull_back(relevance, x)

        return explain


def _aligned(x):
    """Lay flat rows out as `in_blocks` does, for which see there."""
    short = -x.shape[-1] % ALIGNMENT
    return pad(x, (0, short))[:, :-short] if x.ndim == 2 and short else x


def _arrays(tensors):
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _restored(cls, state, parameters, buffers, trained, strides):
    """Make the network from what ``__reduce__`` gave."""
    net = cls.__new__(cls)
    vars(net).update(state)
    for name, array in (parameters | buffers).items():
        owner, _, own_name = name.rpartition(".")
        owner, tensor = net.get_submodule(owner), torch.from_numpy(array)
        if name in strides:
            laid_out = torch.empty_strided(array.shape, strides[name], dtype=tensor.dtype)
            tensor = laid_out.copy_(tensor)
        if name in parameters:
            owner._parameters[own_name] = nn.Parameter(tensor, name in trained)
        else:
            owner._buffers[own_name] = tensor
    return net


def _describe(output):
    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"


def make_module(module, row_shape):
    """Copy a module, or make one by a function of the shape of a row."""
    if not isinstance(module, nn.Module):
        made = module(row_shape)
        if not isinstance(made, nn.Module):
            raise ValueError(
                f"{module!r} should make a torch.nn.Module for rows of shape {row_shape}, "
                f"but gave {type(made).__name__}."
            )
        module = made
    return copy.deepcopy(module).float()


def output_of(net, row_shape, network="The network", advice=""):
    """Return what a network gives for two rows of zeros, in evaluation mode.

    Raises
    ------
    ValueError
        If it can't take such rows.
    """
    rows = torch.zeros((2, *row_shape), dtype=torch.float32)
    try:
        with torch.no_grad():
            return net.float().eval()(rows)
    except Exception as error:  # whatever a user's module raises
        raise ValueError(
            f"{network} fails on rows of shape {row_shape}: {error}{advice}"
        ) from error
