# Sourced before each phase's hooks, inside the image too. A variable of the build's environment would win over every file.
for _dropcloth_name in ${!PIP_@} ${!UV_@} ${!PDM_@} ${!POETRY_@} ${!PIPX_@} ${!PIPENV_@} ${!VIRTUALENV_@}; do
    unset "$_dropcloth_name"
done
unset _dropcloth_name
# There only while the configuration is laid over the image.
if [ -e /run/dropcloth/pip.conf ]; then
    export PIP_CONFIG_FILE=/run/dropcloth/pip.conf UV_CONFIG_FILE=/run/dropcloth/uv.toml
    export DIST_EXTRA_CONFIG=/run/dropcloth/pydistutils.cfg
fi
