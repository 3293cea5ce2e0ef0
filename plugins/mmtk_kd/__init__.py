"""Knowledge distillation: from a network that sees four modalities to one that sees one (thesis, chapter 3)."""
