"""Makers of a lesion mask for those who have none. mmtk has the form; plugins have the parts.

    Segmenter        an image in, a mask out
    PairSegmenter    the same for what compares the image with another one, such as a healthy template
    Segmentation     what is found: the mask, BraTS's regions, the uncertainty
    regions          label maps and regions: ET, TC and WT, and the thesis's post-processing
    weights          a trained network and all that belongs to it, in one safetensors file

A network of ours becomes a segmenter by its weights alone::

    from mmtk.segmenters.weights import SegmenterWeights

    SegmenterWeights(
        network="my_plugin.networks:Student",    # built as Student(**settings); the package of an installed plugin,
        settings={"channels": 1, "outputs": 3},  # or "monai.networks.nets:DynUNet"
        modalities=("t1",),                      # one channel each, in this order: t1, t1ce, t2, flair
        outputs=("ET", "TC", "WT"),              # one channel each; or labels, such as ("0", "1", "2", "4")
        activation="sigmoid",                    # of the logits that the network returns; softmax for labels; none
        spacing=(2.0, 2.0, 2.0),                 # mm that it was trained on; axes lie as in RAS, as nearly as they can
        patch=(64, 64, 64),                      # voxels of its sliding window
        normalize="zscore",                      # of each modality, over its foreground; the background stays 0
        state=network.state_dict(),
        facts={...},                             # how it was trained
    ).save(folder / "models" / "model.safetensors")

In ``forward`` it takes ``(B, len(modalities), *patch)`` and returns logits ``(B, len(outputs), *patch)``; of a tuple
or a mapping (``"logits"``) the first entry counts. Its bundle holds ``configs/inference.json`` with

    network_def::_target_       mmtk.bundle.segmentation.SegmentationNetwork
    network_def::segmenter      {"kind": "network", "weights": "models/model.safetensors"}, further settings of
                                the segmenter ``network`` beside it (``mmtk show network``)

and else what :func:`mmtk.bundle.segmentation.write_bundle` writes.
"""

from mmtk.segmenters.base import PairSegmenter, Segmentation, Segmenter, entropy

__all__ = ["PairSegmenter", "Segmentation", "Segmenter", "entropy"]
