"""Models as people have them: files and folders, and names of models in public packages."""
