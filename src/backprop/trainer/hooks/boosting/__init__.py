"""Hooks for XGBoost, LightGBM and CatBoost."""
