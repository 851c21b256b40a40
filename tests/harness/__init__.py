"""What several tests share. Nothing here imports softnet except the helpers that say so."""
