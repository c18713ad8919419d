"""Extensions that nerfstudio loads: a command of ns-process-data, a dataparser and a splatfacto method."""
