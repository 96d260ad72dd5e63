{% include "page.js" %}
{% include "models.js" %}
{% include "pictures.js" %}
