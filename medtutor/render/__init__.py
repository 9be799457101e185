"""Exact pictures of simple shapes, many patients at a time: `shape` has convex solids, `body` builds bodies of them and
takes slices, volumes and X-rays in closed form, `kernels` is what runs compiled. Knows no anatomy."""
