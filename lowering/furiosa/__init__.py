"""Furiosa's RNGD: static ExportedPrograms of the ATen ops that its compiler takes."""
