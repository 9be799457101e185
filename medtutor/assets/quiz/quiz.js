/* Without this script the choices of a quiz are <details> that hold their explanations. Here they become radio buttons,
   one explanation is shown at a time, and first tries are counted. */
(function () {
  document.querySelectorAll('.medtutor-quiz:not([data-ready])').forEach(function (root) {
    root.dataset.ready = 'true';
    root.querySelectorAll('[data-math]').forEach(function (formula) { formula.innerHTML = formula.dataset.math; });
    root.querySelector('.how').textContent = 'Choose an answer to see whether it is right, and why. ' +
      'With the keyboard, the arrow keys choose and Enter answers.';
    var questions = Array.from(root.querySelectorAll('fieldset')), score = root.querySelector('.score');
    var again = root.querySelector('button'), group = Math.random().toString(36).slice(2);

    function count() {
      var tried = questions.filter(function (question) { return question.dataset.first; });
      var right = tried.filter(function (question) { return question.dataset.first === 'right'; }).length;
      var left = questions.length - tried.length;
      again.hidden = !tried.length;
      score.textContent = !tried.length ? '' : right + ' of ' + tried.length + ' right at the first try' +
        (left ? '; ' + left + ' to go.' : '.');
    }

    questions.forEach(function (question, number) {
      var why = question.querySelector('.why'), byArrow = false, explanations = {};

      function answer(input) {
        var verdict = input.closest('label').dataset.right ? 'right' : 'wrong';
        input.closest('label').className = verdict;
        question.dataset.first = question.dataset.first || verdict;
        why.innerHTML = explanations[input.value];
        count();
      }

      question.querySelectorAll('details').forEach(function (choice, place) {
        var label = document.createElement('label'), input = document.createElement('input');
        var text = document.createElement('span');
        Object.assign(input, {type: 'radio', name: group + number, value: place, autocomplete: 'off'});
        text.append.apply(text, choice.querySelector('summary').childNodes);
        explanations[place] = choice.querySelector('summary ~ div').innerHTML;
        if (choice.dataset.right) label.dataset.right = 'true';
        label.append(input, text);
        choice.replaceWith(label);
      });
      // An arrow key selects on its way to the next choice, and a browser sends a click for it: that is no answer yet.
      // For a key on what is selected already it sends none.
      question.addEventListener('keydown', function (event) {
        byArrow = event.key.startsWith('Arrow');
        if ((event.key === 'Enter' || event.key === ' ') && event.target.checked) {
          event.preventDefault();
          answer(event.target);
        }
      });
      question.addEventListener('pointerdown', function () { byArrow = false; });
      question.addEventListener('click', function (event) {
        if (event.target.type !== 'radio') return;
        if (byArrow) why.textContent = 'Press Enter to answer.';
        else answer(event.target);
        byArrow = false;
      });
    });

    // JupyterLab would use the keys to move through its cells; it asks the element that has the focus, none around it.
    root.querySelectorAll('input, button').forEach(function (control) { control.dataset.lmSuppressShortcuts = 'true'; });
    again.addEventListener('click', function () {
      questions.forEach(function (question) {
        delete question.dataset.first;
        question.querySelector('.why').textContent = '';
        question.querySelectorAll('label').forEach(function (label) { label.className = ''; });
        question.querySelectorAll('input').forEach(function (input) { input.checked = false; });
      });
      count();
      root.querySelector('input').focus();
    });
  });
})();
