"""The pure core: given equal events, ``Seen`` and answers, equal bytes come out."""
