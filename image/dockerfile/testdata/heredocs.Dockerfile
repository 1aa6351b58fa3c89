FROM busybox
RUN <<EOF
set -e
echo one
echo two > /two
EOF
RUN <<'SCRIPT' cat > /x
$HOME stays
SCRIPT
RUN cat <<A - <<-B /dev/null
in a
A
	in b, with a tab
	B
COPY <<EOF /etc/motd
Welcome to ${HOSTNAME}
EOF
COPY --chown=1:2 <<-"ONE" <<TWO file.txt /dir/
	not $expanded
	ONE
$expanded
TWO
RUN ["cat", "<<EOF"]
RUN python3 <<EOF && echo ${DONE}
print("x << y")
EOF
ONBUILD COPY <<EOF /onbuild
later
EOF
ADD <<EOF /added
# not a comment
EOF
CMD cat /two
