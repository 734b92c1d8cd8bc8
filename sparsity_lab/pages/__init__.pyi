from .gallery import build as build
