"""Static checks of everything in deploy/ and k8s/: `make check-deploy`."""
