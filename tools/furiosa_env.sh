#!/usr/bin/env bash
# Make an environment for Furiosa's compiler, apart from the project's own: furiosa_env.sh FOLDER [PYTHON]
#
# furiosa-torch is linked against torch 2.10.0 and loads itself into every `import torch`, so it must never share an
# environment with another torch. The wheel of torch 2.10.0 on PyPI is the CUDA build (0.9 GB, without its nvidia
# wheels); stub libraries stand in for CUDA, which the compiler never calls. The result takes 2.4 GB.
#
# `compile` also needs the Debian packages gcc-aarch64-linux-gnu and libc6-dev-arm64-cross.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: $0 FOLDER [PYTHON]" >&2
    exit 2
fi
folder=$1
python=${2:-python3}
here=$(cd "$(dirname "$0")" && pwd)

"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet --no-deps torch==2.10.0 furiosa-torch==2026.4.0 furiosa-kernels==2026.4.0
"$folder/bin/pip" install --quiet numpy filelock sympy networkx jinja2 fsspec typing-extensions setuptools mypy==2.2.0

site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$folder/bin/python" "$here/furiosa_stubs.py" "$site/torch/lib" "$folder/stubs"

# One name to call, with the stubs in place.
cat > "$folder/bin/furiosa-python" <<END
#!/usr/bin/env bash
folder=\$(cd "\$(dirname "\$0")/.." && pwd)
export LD_LIBRARY_PATH="\$folder/stubs\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "\$folder/bin/python" "\$@"
END
chmod +x "$folder/bin/furiosa-python"

if ! command -v aarch64-linux-gnu-gcc > /dev/null; then
    echo "note: compiling needs: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross" >&2
fi
"$folder/bin/furiosa-python" -c 'import torch, furiosa.torch; print("torch", torch.__version__, "with furiosa-torch: ready")'
