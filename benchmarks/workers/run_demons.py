"""SimpleITK's diffeomorphic demons, with the pyramid that one has to write oneself. It knows no mask.

Settings: ``shrink`` and ``iterations`` a level, ``sigma`` in voxels for the smoothing of the field.
"""

import SimpleITK as sitk
from common import Task

task = Task.read()

sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(task.threads)
fixed, moving = (sitk.ReadImage(path, sitk.sitkFloat32) for path in (task.fixed, task.moving))
dim = fixed.GetDimension()
affine = sitk.ReadTransform(task.itk_affine)
shrink = task.settings.get("shrink", [4, 2, 1])
iterations = task.settings.get("iterations", [100, 60, 30])
with task.call():
    placed = sitk.Resample(moving, fixed, affine, sitk.sitkLinear, 0.0)
    # Demons compares intensities, so they are matched first, as its documentation asks.
    placed = sitk.HistogramMatching(placed, fixed, 1024, 7, True)
    field = None
    for factor, count in zip(shrink, iterations, strict=True):
        still, carried = fixed, placed
        if factor > 1:
            sigma = [0.5 * factor * h for h in fixed.GetSpacing()]
            still, carried = (
                sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, sigma), [factor] * dim)
                for image in (fixed, placed)
            )
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(count)
        demons.SetStandardDeviations(task.settings.get("sigma", 1.5))
        demons.SetSmoothDisplacementField(True)
        if field is None:
            field = demons.Execute(still, carried)
        else:
            field = demons.Execute(still, carried, sitk.Resample(field, still))
whole = sitk.CompositeTransform(
    [affine, sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))]
)
total = sitk.TransformToDisplacementField(
    whole, sitk.sitkVectorFloat32, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
)
sitk.WriteImage(total, task.displacement)
task.done("SimpleITK")
