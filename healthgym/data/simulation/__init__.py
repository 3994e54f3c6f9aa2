"""The simulated cohort of people with HIV on antiretroviral therapy."""
