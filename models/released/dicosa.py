"""The released spelling of DiCoSA."""

from models.released import spelling

released_name = spelling([(r"concept_weight\.", "weight_fc.")])
