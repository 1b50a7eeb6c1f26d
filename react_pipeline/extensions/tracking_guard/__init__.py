"""What MLflow's client and database do not bear by themselves: sick servers, and a moved
project.
"""
