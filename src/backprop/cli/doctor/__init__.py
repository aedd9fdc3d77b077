"""Looks at a machine before anything is trained on it: findings leave, each with what to do. Changes nothing."""
