"""
The way to Stripe: one request under one idempotency key, sent until it is settled.
"""
