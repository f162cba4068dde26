-- The catalog's database is made by the image (POSTGRES_DB); results have one of their own.
CREATE DATABASE tables;
