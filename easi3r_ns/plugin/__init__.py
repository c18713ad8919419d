"""What nerfstudio calls: the bridge to ns-process-data, the dataparser, the splatfacto method."""
