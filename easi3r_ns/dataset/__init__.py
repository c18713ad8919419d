"""The nerfstudio dataset and the folder of the whole scene, written and read again."""
