"use strict";
// Before anything is painted: the theme that the system asks for.
document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
