"""The commands of `edgemem`: each module registers its own."""
