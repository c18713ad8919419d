"""Global alignment: the predictions of all pairs become one scene."""
