"""Who carries out jobs: this process, worker processes, other machines."""
