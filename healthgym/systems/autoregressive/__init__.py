"""ar: a patient's variables one after the other, each a class drawn given all that came before."""
