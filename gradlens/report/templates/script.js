{% include "page.js" %}
{% include "painting.js" %}
{% include "saving.js" %}
{% include "models.js" %}
{% include "pictures.js" %}
