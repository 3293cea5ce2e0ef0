# Runs that the pages take for finished, and files made of them. In the folder of given files: finish.sh RUNS ROOT
set -euo pipefail
runs=$1
root=$2
ln -s "$root/bundles" bundles
run() { mmtk run bundle=metamorph_brats "$@" >/dev/null; }
pair="moving=patient_t1.nii.gz fixed=template.nii.gz mask=tumor.nii.gz"
run $pair labels=patient_labels.nii.gz fixed_labels=template_labels.nii.gz --out "$runs/result"

# Two cases of one task, named as Learn2Reg names them.
for number in 1 2; do
    cp scans/sub-0$number/t1.nii.gz OASIS_000${number}_0000.nii.gz
    cp template.nii.gz OASIS_0009_0000.nii.gz
    run moving=OASIS_000${number}_0000.nii.gz fixed=OASIS_0009_0000.nii.gz --out "$runs/run$number"
done

# What another tool would have written.
cp template.nii.gz fixed.nii.gz
cp patient_t1.nii.gz moving.nii.gz
cp "$runs/result/warped.nii.gz" warped.nii.gz
cp "$runs/result/deformed.nii.gz" shape_only.nii.gz
cp "$runs/result/warped_mask.nii.gz" lesion_on_template.nii.gz
cp "$runs/result/warped_mask.nii.gz" lesion.nii.gz
cp "$runs/result/warped_labels.nii.gz" warped_labels.nii.gz
cp "$runs/result/displacement.nii.gz" any_tool.nii.gz
cp landmarks.csv moving.csv
mmtk apply transform="$runs/result" points=moving.csv out=fixed.csv
mmtk convert "$runs/result" sub_ format=ants
cp sub_1Warp.nii.gz 1Warp.nii.gz
cp sub_0GenericAffine.mat 0GenericAffine.mat
mmtk convert sub_0GenericAffine.mat flirt.mat format=fsl fixed=fixed.nii.gz moving=moving.nii.gz
mmtk convert sub_0GenericAffine.mat by_hand.tfm
