"""From recognized frames of films to a data set: stories are windows of a film, written by a model, checked, and kept.

`windows` says which frames make a story, `writing` asks a model for it, `calls` keeps and counts what that costs. Import from
these modules: the configuration needs only `config`, without what reads tables of detections.
"""
