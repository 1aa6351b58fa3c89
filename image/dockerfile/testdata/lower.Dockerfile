from busybox as base
run echo 'single; quotes' "double" \
  | tr a b
arg A
arg B=$A C="x y"
env a b
label l=1
copy . .
workdir rel/ative
healthcheck --interval=5s --timeout=3s --start-period=1m --start-interval=1s --retries=3 cmd wget -q http://localhost/ || exit 1
from base
healthcheck none
healthcheck CMD ["true", "x"]
onbuild run make
onbuild add . /app
shell ["/bin/sh"]
cmd
entrypoint []
