"""ar: a patient's variables are sampled one after the other, each as a class given all previous ones."""
