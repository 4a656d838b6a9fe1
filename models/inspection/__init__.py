"""Looking at the model that was given: by a trial pass, and beside the adaptive one."""
